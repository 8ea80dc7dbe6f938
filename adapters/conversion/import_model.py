"""An Ollama model, or any GGUF, as a folder for MLX: made, and held against its source."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
from msgspec import Struct

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
_ROOM = 1.25
"""An MLX folder is larger than its GGUF: scales for 32 weights each, not for 256."""

_LOOK_SECONDS = 5.0


class Imported(Struct, frozen=True):
    folder: Path
    report: Report
    parity: Parity


def find_source(named: str, ollama: OllamaConfig | None) -> StoredModel:
    """`ollama:NAME`, or the path of a GGUF.

    Raises:
        BackendError: there is no such model, or it is more than a GGUF.
        OSError: it cannot be read.
    """
    kind, _, name = named.partition(":")
    if kind == "ollama":
        told = asyncio.run(_store_in_use(name, ollama)) if ollama is not None else None
        return find_stored(name, (*([told] if told else []), *store_folders()))
    path = Path(named).expanduser()
    if not path.is_file():
        raise ModelNotFoundError(f"There is no file '{named}'; a model is `ollama:NAME`.")
    return StoredModel(name=path.stem, weights=path)


async def _store_in_use(name: str, ollama: OllamaConfig) -> Path | None:
    """The store of the Ollama that runs, which may be another one than this user's."""
    async with aclosing(OllamaClient(ollama.addresses[0], ollama)) as client:
        try:
            shown = await client.post("/api/show", ShowBody(name), Show, _LOOK_SECONDS)
        except BackendError:  # Its files can be read without it.
            return None
    blob = to_model_info(shown, None).blob
    return Path(blob).parents[1] if blob else None


def default_target(source: StoredModel, mlx: MLXConfig) -> Path:
    """Where the MLX backend lists it: by the name that it has on Ollama."""
    return imports_folder(mlx.cache_folder) / source.name


def import_model(
    source: StoredModel,
    target: Path,
    ollama: OllamaConfig | None,
    progress: Callable[[int, int], None],
) -> Imported:
    """Convert, and compare prompts where an Ollama with the model answers.

    Raises:
        UnsupportedGGUFError: something of the model cannot be carried over; says what.
        InexactGGUFError: a tensor would not be the source's.
        InvalidRequestError: the disk has no room for it.
        FileExistsError: `target` is something else.
        OSError: the disk.
    """
    if not target.exists():
        _require_room(source.weights, target)
    report = convert(source.weights, target, progress)
    parity = asyncio.run(compare_prompts(source.name, target, ollama))
    _write(target / PARITY, parity)
    return Imported(target, report, parity)


def _require_room(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = int(source.stat().st_size * _ROOM)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise InvalidRequestError(
            f"{target.parent} has {free / 1e9:.1f} GB free; about {needed / 1e9:.1f} are needed."
        )


def _write(path: Path, parity: Parity) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(parity)))
    partial.rename(path)
