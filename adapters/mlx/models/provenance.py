"""Which GGUF file has a folder's weights: the one it was made of, or one that was made of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from adapters.gguf.conversion import TensorReport

_T = TypeVar("_T")

_EXPORTS = "exported"
"""Below the cache folder: folders that are models are read, never written to."""


class Origin(Struct, frozen=True):
    origin: str
    """`sha256:…` of the file."""
    exact: bool
    """Whether no weight was rounded on the way."""


class _Error(Struct):
    relative_l2: float


class _Conversion(Struct):
    """What is read of `conversion.json`, as `gguf/convert.py` writes it."""

    origin: str
    tensors: list[_Error] = []


class _Export(Struct):
    folder: str
    stamp: list[tuple[str, int, int]]
    """Of the weights as they were: name, time in nanoseconds, bytes."""
    made: Origin


def origin_of(folder: Path) -> Origin | None:
    """Of a folder that was made of a GGUF, as the converter noted it."""
    noted = _read(folder / "conversion.json", _Conversion)
    if noted is None:
        return None
    exact = bool(noted.tensors) and all(tensor.relative_l2 == 0 for tensor in noted.tensors)
    return Origin(noted.origin, exact)


def note_export(folder: Path, cache: Path, origin: str, tensors: Iterable[TensorReport]) -> None:
    """That `origin` is a file made of `folder`, so that both are known for one model; `tensors`
    tell what became of them."""
    exact = all(tensor.relative_l2 == 0 for tensor in tensors)
    noted = _Export(str(folder.resolve()), _stamp(folder), Origin(origin, exact))
    target = cache / _EXPORTS / f"{origin.removeprefix('sha256:')}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}")
    partial.write_bytes(msgspec.json.encode(noted))
    partial.rename(target)


def exports(cache: Path) -> dict[Path, Origin]:
    """By folder, those whose weights are still what they were."""
    files = sorted((cache / _EXPORTS).glob("*.json"))
    noted = [each for file in files if (each := _read(file, _Export)) is not None]
    return {Path(each.folder): each.made for each in noted if _is_current(each)}


def _is_current(noted: _Export) -> bool:
    return noted.stamp == _stamp(Path(noted.folder))


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    found = ((file.name, file.stat()) for file in sorted(folder.glob("model*.safetensors")))
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in found]


def _read(file: Path, noted: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=noted)
    except (OSError, msgspec.MsgspecError):
        return None
