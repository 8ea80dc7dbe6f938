"""Models that cannot be loaded as they are on the disk, found out by loading them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from adapters.errors import GenerationError
from adapters.mlx.models.catalog import READ, ModelFolder

_PASSING = (OSError, MemoryError, RuntimeError)
"""Causes that may be gone with the next attempt: a disk, a device, memory."""

Stamp = tuple[tuple[str, int, int], ...]
"""Path, bytes and time of change in nanoseconds of each file."""


class _Failure(Struct, frozen=True):
    stamp: Stamp
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
            self._failures[name] = _Failure(stamp_files(folder), reason)

    def reasons(self, folders: Mapping[str, ModelFolder]) -> dict[str, str]:
        """Return the reasons of models with unchanged files, and forget all others."""
        self._failures = {
            name: failure
            for name, failure in self._failures.items()
            if name in folders and stamp_files(folders[name]) == failure.stamp
        }
        return {name: failure.reason for name, failure in self._failures.items()}


def stamp_files(folder: ModelFolder) -> Stamp:
    """Return the stamp of the files of a model and its parts. Blocks for some system calls."""
    parts = (folder.path, folder.lora, folder.draft.path if folder.draft else None)
    files = (file for part in parts if part is not None for file in sorted(part.glob("*.*")))
    return tuple(stamp for file in files if file.suffix in READ for stamp in _stamps(file))


def _stamps(file: Path) -> Iterator[tuple[str, int, int]]:
    try:
        stat = file.stat()
    except OSError:
        return  # It was removed meanwhile.
    yield str(file), stat.st_size, stat.st_mtime_ns
