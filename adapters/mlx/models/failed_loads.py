"""Models that cannot be loaded as they are on the disk, found out by loading them."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from adapters.errors import GenerationError
from adapters.mlx.models.catalog import ModelFolder

_PASSING = (OSError, MemoryError, RuntimeError)
"""Causes that may be gone with the next attempt: a disk, a device, memory."""

_Stamp = tuple[tuple[str, int, int], ...]


class _Failure(Struct, frozen=True):
    stamp: _Stamp
    reason: str


class FailedLoads:
    """Reasons by name, each as long as the model's files are the same."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def note(self, name: str, folder: ModelFolder, error: GenerationError) -> None:
        """Remember a failed load, unless its cause may pass."""
        if error.lasting and not isinstance(error.__cause__, _PASSING):
            subject = f"The model '{name}' "
            reason = error.message.rstrip(".")
            if reason.startswith(subject):
                reason = f"it {reason.removeprefix(subject)}"
            self._failures[name] = _Failure(_stamp(folder), reason)

    def reasons(self, folders: Mapping[str, ModelFolder]) -> dict[str, str]:
        """Return the reasons of models with unchanged files, and forget all others."""
        self._failures = {
            name: failure
            for name, failure in self._failures.items()
            if name in folders and _stamp(folders[name]) == failure.stamp
        }
        return {name: failure.reason for name, failure in self._failures.items()}


def _stamp(folder: ModelFolder) -> _Stamp:
    """Return name, bytes and time of change of all files of a model, its parts included."""
    parts = (folder.path, folder.lora, folder.draft.path if folder.draft else None)
    files = (file for part in parts if part is not None for file in _files(part))
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.*") if file.is_file())
