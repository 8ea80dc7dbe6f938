"""Models that cannot be loaded as they are on the disk, found out by loading them."""

from collections.abc import Mapping

from msgspec import Struct

from adapters.errors import GenerationError
from adapters.mlx.models.catalog import ModelFolder
from adapters.mlx.models.file_changes import Stamp, stamp_files

_PASSING = (OSError, MemoryError, RuntimeError)
"""Causes that may be gone with the next attempt: a disk, a device, memory."""


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
