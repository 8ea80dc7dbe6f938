"""Provenance: the GGUF file that a folder was converted from, or exported to."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from adapters.gguf.conversion import TensorReport

_T = TypeVar("_T")

_EXPORTS = "exported"
"""Subfolder of the cache: model folders are read, never written to."""


class Origin(Struct, frozen=True):
    origin: str
    """`sha256:…` of the file."""
    exact: bool
    """True if no weight was rounded by the conversion."""


class _Error(Struct):
    relative_l2: float


class _Conversion(Struct):
    """The part of `conversion.json` that is read here; written by `gguf/convert.py`."""

    origin: str
    tensors: list[_Error] = []


class _Export(Struct):
    folder: str
    stamp: list[tuple[str, int, int]]
    """Name, time in nanoseconds and bytes of the weights at the time of the export."""
    origin: Origin = msgspec.field(name="made")


def origin_of(folder: Path) -> Origin | None:
    """The origin that the converter recorded in `folder`; None if it was not converted."""
    conversion = _read(folder / "conversion.json", _Conversion)
    if conversion is None:
        return None
    tensors = conversion.tensors
    exact = bool(tensors) and all(tensor.relative_l2 == 0 for tensor in tensors)
    return Origin(conversion.origin, exact)


def note_export(folder: Path, cache: Path, origin: str, tensors: Iterable[TensorReport]) -> None:
    """Record that the file `origin` was made from `folder`: both are the same model."""
    exact = all(tensor.relative_l2 == 0 for tensor in tensors)
    export = _Export(str(folder.resolve()), _stamp(folder), Origin(origin, exact))
    target = cache / _EXPORTS / f"{origin.removeprefix('sha256:')}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}")
    partial.write_bytes(msgspec.json.encode(export))
    partial.rename(target)


def exports(cache: Path) -> dict[Path, Origin]:
    """Recorded exports by folder, without folders with other weights since."""
    try:
        files = sorted((cache / _EXPORTS).glob("*.json"))
    except OSError:  # The folder of another user, for example: the models are there all the same.
        return {}
    recorded = [export for file in files if (export := _read(file, _Export)) is not None]
    return {
        Path(export.folder): export.origin
        for export in recorded
        if export.stamp == _stamp(Path(export.folder))
    }


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, time and size of the weights; empty if they cannot be read."""
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.glob("model*.safetensors"))]
    except OSError:
        return []
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]


def _read(file: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
