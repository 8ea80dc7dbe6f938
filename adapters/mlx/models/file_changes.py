"""Changes of models' files on the disk: of those that are loaded, and of those that cannot be."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from adapters.mlx.models.catalog import READ, ModelFolder
from adapters.mlx.models.disk import Disk

_COMPARE_SECONDS = 1.0
"""For the files of a loaded model, which is used as it is where its disk takes longer."""

Stamp = tuple[tuple[str, int, int], ...]
"""Path, bytes and time of change in nanoseconds of each file."""


class _Source(Struct, frozen=True):
    """A model's folder, and its files when they were read."""

    folder: ModelFolder
    stamp: Stamp


class LoadedFiles:
    """The files that each model was loaded from. Lives on the event loop."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._sources: dict[str, _Source] = {}
        """Sources by name, those of unloaded models too."""
        self._comparing: asyncio.Task[Stamp] | None = None
        """The latest comparison of files with those that were loaded."""

    async def note(self, name: str, folder: ModelFolder) -> None:
        """Remember the files of a model that is about to be loaded."""
        stamp = await self._disk.run(lambda: stamp_files(folder))
        self._sources[name] = _Source(folder, stamp)

    def folder(self, name: str) -> ModelFolder | None:
        """Return the folder that a model was loaded from."""
        source = self._sources.get(name)
        return source.folder if source is not None else None

    async def have_changed(self, name: str) -> bool:
        """Compare the files with those that were loaded; false while the disk does not answer."""
        source = self._sources.get(name)
        if source is None or (self._comparing is not None and not self._comparing.done()):
            return False
        reading = self._disk.run_without_deadline(lambda: stamp_files(source.folder))
        comparing = asyncio.create_task(reading)
        self._comparing = comparing
        done, _ = await asyncio.wait({comparing}, timeout=_COMPARE_SECONDS)
        return bool(done) and comparing.result() != source.stamp


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
