"""An MLX model as one of Ollama's: written as GGUF, handed over, and held against its source."""

import asyncio
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from msgspec import Struct

from adapters.config import MLXConfig, OllamaConfig
from adapters.conversion.ollama_upload import upload
from adapters.conversion.parity import Parity, compare_prompts
from adapters.errors import InvalidRequestError, ModelNotFoundError
from adapters.mlx.models import bundled
from adapters.mlx.models.catalog import find_models
from adapters.mlx.models.provenance import note_export
from adapters.mlx.to_gguf import Written, write_gguf
from adapters.ollama.client import OllamaClient
from adapters.ollama.model_info import origin
from adapters.ollama.wire import CreateBody, Show, ShowBody

_LOOK_SECONDS = 5.0
_TAG = re.compile(r"[a-z0-9._-]+(/[a-z0-9._-]+)*(:[A-Za-z0-9._-]+)?")
_NO_TAG = re.compile(r"[^a-z0-9._:/-]+")


class Exported(Struct, frozen=True):
    tag: str
    written: Written
    parity: Parity


def find_folder(named: str, mlx: MLXConfig) -> tuple[str, Path]:
    """The name and the folder of `mlx:NAME`, or of a folder's path.

    Raises:
        BackendError: there is no such model, or it cannot be made ready.
    """
    kind, _, name = named.partition(":")
    if kind != "mlx":
        path = Path(named).expanduser()
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"'{named}' is no model's folder; a model is `mlx:NAME`.")
        return path.resolve().name, path
    found = find_models(mlx).get(name)
    if found is None:
        raise ModelNotFoundError(f"There is no MLX model '{name}'.")
    ready = found.path or asyncio.run(bundled.ensure_available(name, mlx.cache_folder))
    return name, ready


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
    """Write, hand over, and compare prompts. Nothing of the file stays here but a note, by
    which the two are known for one model.

    Raises:
        UnsupportedGGUFError: something of the model cannot be carried over; says what.
        InexactGGUFError: a tensor would not be the source's.
        InvalidRequestError: `tag` is taken or no tag, or the disk has no room.
        BackendError: Ollama is not there, or does not take it.
        OSError: the disk.
    """
    asyncio.run(_require_free(tag, ollama))
    cache = bundled.cache_folder(mlx.cache_folder)
    cache.mkdir(parents=True, exist_ok=True)
    _require_room(folder, cache)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=cache) as partial:
        file = Path(partial) / "model.gguf"
        written = write_gguf(folder, file, progress)
        stored = asyncio.run(_hand_over(file, tag, ollama))
    if stored is not None:
        note_export(folder, cache, stored, written.tensors)
    parity = asyncio.run(compare_prompts(tag, folder, ollama))
    return Exported(tag, written, parity)


async def _require_free(tag: str, ollama: OllamaConfig) -> None:
    if not _TAG.fullmatch(tag):
        raise InvalidRequestError(f"'{tag}' is no name for a model of Ollama's.")
    async with aclosing(OllamaClient(ollama.addresses[0], ollama)) as client:
        try:
            await client.post("/api/show", ShowBody(tag), Show, _LOOK_SECONDS)
        except ModelNotFoundError:
            return
    raise InvalidRequestError(f"Ollama has a '{tag}' already; name another with --as.")


def _require_room(folder: Path, cache: Path) -> None:
    # The file, and Ollama's copy of it, mostly on the same disk.
    needed = 2 * sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise InvalidRequestError(
            f"{cache} has {free / 1e9:.1f} GB free; about {needed / 1e9:.1f} are needed."
        )


async def _hand_over(file: Path, tag: str, ollama: OllamaConfig) -> str | None:
    """The origin that Ollama tells of: it writes a file of its own, with the same tensors."""
    body = CreateBody(model=tag, files={file.name: await upload(file, ollama)})
    async with (
        aclosing(OllamaClient(ollama.addresses[0], ollama)) as client,
        aclosing(client.created(body)) as lines,
    ):
        async for _ in lines:  # It says what it does; the last line says that it is done.
            pass
        return origin(await client.post("/api/show", ShowBody(tag), Show, _LOOK_SECONDS))
