"""Export an MLX model to Ollama: write a GGUF, upload it, compare prompts with its source."""

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from msgspec import Struct, convert

from adapters.config import MLXConfig, OllamaConfig
from adapters.conversion.parity import Parity, compare_prompts
from adapters.errors import InvalidRequestError, ModelNotFoundError
from adapters.mlx.models import bundled
from adapters.mlx.models.catalog import read_catalog
from adapters.mlx.models.provenance import note_export
from adapters.mlx.to_gguf import Written, write_gguf
from adapters.ollama.blobs import has_file, upload
from adapters.ollama.client import OllamaClient
from adapters.ollama.model_info import origin
from adapters.ollama.wire import CreateBody, Show, ShowBody
from adapters.recommended_sampling import RecommendedSampling, read_generation_config

_LOOK_SECONDS = 5.0
_PIECE_BYTES = 1 << 20
"""Read at a time of a file that is uploaded."""
_TAG = re.compile(r"[a-z0-9._-]+(/[a-z0-9._-]+)*(:[A-Za-z0-9._-]+)?")
_NO_TAG = re.compile(r"[^a-z0-9._:/-]+")


class Exported(Struct, frozen=True):
    tag: str
    written: Written
    parity: Parity


def find_folder(source: str, mlx: MLXConfig) -> tuple[str, Path]:
    """Name and folder of `source`, which is a listed name, with `mlx:` or without, or the path of a
    folder. A listed name comes first.

    Raises:
        BackendError: the model does not exist, or cannot be converted or downloaded.
    """
    name, path = source.removeprefix("mlx:"), Path(source).expanduser()
    catalog = read_catalog(mlx)
    if (model := catalog.folders.get(name)) is not None:
        return name, model.path or asyncio.run(bundled.ensure_available(name, mlx.cache_folder))
    if (path / "config.json").is_file():
        return path.resolve().name, path
    reason = catalog.unusable.get(name)
    raise ModelNotFoundError(
        f"The MLX model '{name}' cannot be exported: {reason}."
        if reason
        else f"There is neither an MLX model '{name}' nor a folder of a model '{source}'."
    )


def default_tag(name: str) -> str:
    """`mlx-community/Llama-3.2-3B-4bit` -> `llama-3.2-3b-4bit`."""
    return _NO_TAG.sub("-", name.rpartition("/")[2].lower())


def export_model(
    folder: Path,
    tag: str,
    mlx: MLXConfig,
    ollama: OllamaConfig,
    progress: Callable[[int, int], None],
) -> Exported:
    """Write a GGUF, upload it, and compare prompts.

    The file is deleted afterwards; a record of the export stays, by which both are recognised as
    the same model.

    Raises:
        UnsupportedGGUFError: a part of the model is not supported; the message names it.
        InexactGGUFError: a tensor would differ from the source.
        InvalidRequestError: `tag` exists or is invalid, the disk is too small, or the folder's
            `generation_config.json` is wrong.
        BackendError: Ollama cannot be reached, or rejects the file.
        OSError: a file cannot be read or written.
    """
    recommended = _recommended(folder)
    asyncio.run(_require_free(tag, ollama))
    cache = bundled.cache_folder(mlx.cache_folder)
    cache.mkdir(parents=True, exist_ok=True)
    _require_room(folder, cache)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=cache) as partial:
        file = Path(partial) / "model.gguf"
        written = write_gguf(folder, file, progress)
        stored = asyncio.run(_create(file, written, tag, recommended, ollama))
    if stored is not None:
        note_export(folder, cache, stored, written.tensors)
    parity = asyncio.run(compare_prompts(tag, folder, ollama))
    return Exported(tag, written, parity)


def _recommended(folder: Path) -> RecommendedSampling:
    try:
        config = read_generation_config(folder)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"generation_config.json is wrong: {error}.") from error
    return convert(config, RecommendedSampling, from_attributes=True)


async def _require_free(tag: str, ollama: OllamaConfig) -> None:
    if not _TAG.fullmatch(tag):
        raise InvalidRequestError(f"'{tag}' is not a valid name for an Ollama model.")
    async with aclosing(OllamaClient(ollama.addresses[0], ollama)) as client:
        try:
            await client.post("/api/show", ShowBody(tag), Show, _LOOK_SECONDS)
        except ModelNotFoundError:
            return
    raise InvalidRequestError(f"Ollama already has a model '{tag}'; choose another name with --as.")


def _require_room(folder: Path, cache: Path) -> None:
    # For the file and Ollama's copy of it, usually on the same disk.
    needed = 2 * sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise InvalidRequestError(
            f"{cache} has {free / 1e9:.1f} GB free; about {needed / 1e9:.1f} GB are needed. "
            "Free some, or set another 'cache_folder' of the MLX backend."
        )


async def _create(
    file: Path, written: Written, tag: str, recommended: RecommendedSampling, ollama: OllamaConfig
) -> str | None:
    """Create the model; returns the origin by Ollama, which stores a file of its own."""
    digest = written.origin
    body = CreateBody(model=tag, files={file.name: digest}, parameters=recommended)
    async with aclosing(OllamaClient(ollama.addresses[0], ollama)) as client:
        if not await has_file(client, ollama, digest):
            await upload(client, ollama, digest, _pieces(file))
        async with aclosing(client.created(body)) as lines:
            async for _ in lines:  # Progress, until the model has been created.
                pass
        return origin(await client.post("/api/show", ShowBody(tag), Show, _LOOK_SECONDS))


async def _pieces(file: Path) -> AsyncGenerator[bytes]:
    with file.open("rb") as opened:
        while piece := await asyncio.to_thread(opened.read, _PIECE_BYTES):
            yield piece
