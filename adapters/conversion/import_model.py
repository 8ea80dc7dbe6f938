"""Import an Ollama model or a GGUF to an MLX folder, and compare prompts with its source."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
from msgspec import Struct
from tokenizers import Tokenizer

from adapters.config import MLXConfig, OllamaConfig
from adapters.conversion.ollama_store import StoredModel, find_stored, store_folders
from adapters.conversion.parity import Parity, compare_prompts
from adapters.errors import BackendError, InvalidRequestError, ModelNotFoundError
from adapters.mlx.gguf import Report, convert
from adapters.mlx.models.bundled import imports_folder
from adapters.ollama.client import OllamaClient
from adapters.ollama.model_info import to_model_info
from adapters.ollama.wire import Show, ShowBody

PARITY = "parity.json"
_SIZE_RATIO = 1.25
"""An MLX folder is larger than its GGUF: a scale for 32 weights, not for 256."""

_LOOK_SECONDS = 5.0


class Imported(Struct, frozen=True):
    folder: Path
    report: Report
    parity: Parity
    left_out: tuple[str, ...]
    """Parts of the Modelfile that the folder has no place for."""


class _Ends(Struct):
    """The part of a `config.json` that an import writes."""

    eos_token_id: list[int]


def find_source(source: str, ollama: OllamaConfig | None) -> StoredModel:
    """The weights of `source`, which is the name of an Ollama model, with `ollama:` or without, or
    the path of a GGUF. A file of that name comes first.

    Raises:
        BackendError: the model does not exist, or has other parts than one GGUF.
        OSError: a file cannot be read.
    """
    kind, _, name = source.partition(":")
    path = Path(source).expanduser()
    if kind != "ollama" and path.is_file():
        return StoredModel(name=path.stem, weights=path)
    name = name if kind == "ollama" else source
    store = asyncio.run(_store_of_server(name, ollama)) if ollama is not None else None
    try:
        return find_stored(name, (*([store] if store else []), *store_folders()))
    except ModelNotFoundError as error:
        if kind == "ollama":
            raise
        raise ModelNotFoundError(
            f"There is neither a file '{source}' nor a model of Ollama of this name."
        ) from error


async def _store_of_server(name: str, ollama: OllamaConfig) -> Path | None:
    """The store of the running Ollama, which may differ from this user's."""
    async with aclosing(OllamaClient(ollama.addresses[0], ollama)) as client:
        try:
            shown = await client.post("/api/show", ShowBody(name), Show, _LOOK_SECONDS)
        except BackendError:  # The files can be read without the server.
            return None
    blob = to_model_info(shown, None).blob
    return Path(blob).parents[1] if blob else None


def default_target(source: StoredModel, mlx: MLXConfig) -> Path:
    """The folder where the MLX backend finds it, by its name on Ollama."""
    return imports_folder(mlx.cache_folder) / source.name


def import_model(
    source: StoredModel,
    target: Path,
    ollama: OllamaConfig | None,
    progress: Callable[[int, int], None],
) -> Imported:
    """Convert, and compare prompts if an Ollama with the model is running.

    Raises:
        UnsupportedGGUFError: a part of the model is not supported; the message names it.
        InexactGGUFError: a tensor would differ from the source.
        InvalidRequestError: the disk is too small.
        FileExistsError: `target` exists and is not a conversion of `source`.
        OSError: a file cannot be read or written.
    """
    if not target.exists():
        _require_room(source.weights, target)
    report = convert(source.weights, target, progress, sampling=source.sampling, stops=source.stops)
    parity = asyncio.run(compare_prompts(source.name, target, ollama))
    partial = target / f".{PARITY}"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(parity)))
    partial.rename(target / PARITY)
    left_out = [f"PARAMETER stop {stop!r}" for stop in _texts_as_stops(source, target)]
    return Imported(target, report, parity, (*source.other_parts, *left_out))


def _texts_as_stops(source: StoredModel, target: Path) -> list[str]:
    """The stop strings that are no token that ends answers of the model in `target`."""
    ends = msgspec.json.decode((target / "config.json").read_bytes(), type=_Ends).eos_token_id
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    return [stop for stop in source.stops if tokenizer.token_to_id(stop) not in ends]


def _require_room(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = int(source.stat().st_size * _SIZE_RATIO)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise InvalidRequestError(
            f"{target.parent} has {free / 1e9:.1f} GB free; about {needed / 1e9:.1f} GB are "
            "needed. Free some, or choose another folder with --to."
        )
