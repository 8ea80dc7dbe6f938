"""The prefix cache on disk: blocks in a folder, for the next start of the server.

One file per block, `<fingerprint>/<name>-<checksum>.safetensors`. mlx reads a truncated file on a
thread of its own, where an exception ends the process, so that only files with a matching checksum
are given to it. A thread of its own writes; the engine's thread only reads.
"""

# pyright: basic
import io
import logging
import os
import queue
import stat
import threading
import time
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import cast

import mlx.core as mx

from adapters.config import make_private_folder

logger = logging.getLogger(__name__)

_FORMAT = "1"
_PENDING = 256
"""Blocks that may wait for the disk; further ones are not written, rather than kept in memory."""


def fingerprint(files: Iterable[Path], how: str) -> str:
    """Hash a model's files and everything else that decides the content of a block.

    Reading all weights would take as long as loading them: size and time of change stand for the
    content of large files.
    """
    digest = blake2b(digest_size=16)
    for part in (_FORMAT, version("mlx-lm"), version("mlx"), how):
        digest.update(part.encode() + b"\0")
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\0".encode())
        if file.suffix == ".json" and stat.st_size < 1 << 20:
            digest.update(file.read_bytes())
    return digest.hexdigest()


class BlockFolder:
    """The blocks of one model. Their tensors are named by number, in order."""

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder = folder
        self._budget = budget
        """Bytes of all models together, below the parent of `folder`."""
        self._files = {
            path.name.partition("-")[0]: path
            for path in folder.glob("*.safetensors")
            if _own_file(path) is not None
        }
        self._unchecked = budget
        """Bytes written since the folder was last measured; it is measured with the first write."""
        self._pending: queue.Queue[tuple[str, list[mx.array]] | None] = queue.Queue(_PENDING)
        self._writer = threading.Thread(target=self._write_all, name="mlx-prefix", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, root: str, mark: str, budget: int) -> "BlockFolder | None":
        """Open the folder; `None`, with a log line, if it cannot be created."""
        folder = Path(root).expanduser() / mark
        try:
            # Prompts can be recovered from it: readable by this user only.
            make_private_folder(folder)
            if not _is_own(folder.lstat(), stat.S_IFDIR):
                logger.warning("the prefix cache is not kept on disk: its folder is another user's")
                return None
            folder.chmod(0o700)
            # A killed server left incomplete files; those of a running server stay.
            for part in folder.glob("*.part"):
                own = _own_file(part)
                if own is not None and own.st_mtime < time.time() - 60:
                    part.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the prefix cache is not kept on disk: %s", error.strerror)
            return None
        return cls(folder, budget)

    def read(self, name: str) -> list[mx.array] | None:
        """Return the block's tensors, evaluated; `None` if it is missing or damaged."""
        if (path := self._files.get(name)) is None:
            return None
        try:
            arrays = _load(path)
            os.utime(path)
        except (OSError, ValueError, RuntimeError) as error:
            logger.warning("a block of the prefix cache on disk is dropped: %s", error)
            self._files.pop(name, None)
            path.unlink(missing_ok=True)
            return None
        return arrays

    def write(self, name: str, arrays: list[mx.array]) -> None:
        """Queue a block for writing; `arrays` are evaluated, which lets any thread use them."""
        if name in self._files:
            return
        try:
            self._pending.put_nowait((name, arrays))
        except queue.Full:
            logger.debug("the disk is slow: a block of the prefix cache is not written")

    def close(self, timeout: float) -> None:
        """Wait until what is pending is written, `timeout` seconds at most."""
        try:
            self._pending.put(None, timeout=timeout)
        except queue.Full:
            return
        self._writer.join(timeout)

    def _write_all(self) -> None:
        while (item := self._pending.get()) is not None:
            name, arrays = item
            try:
                path = self._files[name] = _save(self._folder, name, arrays)
                self._unchecked += path.stat().st_size
                if self._unchecked >= self._budget // 64:
                    self._evict()
            except (OSError, RuntimeError) as error:
                logger.warning("a block of the prefix cache was not written: %s", error)

    def _evict(self) -> None:
        """Remove the least recently used blocks of all models."""
        self._unchecked = 0
        found = ((p, _own_file(p)) for p in self._folder.parent.glob("*/*.safetensors"))
        files = [(path, own) for path, own in found if own is not None]
        excess = sum(own.st_size for _, own in files) - self._budget
        for path, own in sorted(files, key=lambda file: file[1].st_mtime_ns):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            self._files.pop(path.name.partition("-")[0], None)
            excess -= own.st_size


def _is_own(status: os.stat_result, kind: int) -> bool:
    return stat.S_IFMT(status.st_mode) == kind and status.st_uid == os.geteuid()


def _own_file(path: Path) -> os.stat_result | None:
    """Return the status of a file that this user's servers wrote; `None` for a pipe, a device, a
    link or the file of another user, which are left alone."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if _is_own(status, stat.S_IFREG) else None


def _save(folder: Path, name: str, arrays: list[mx.array]) -> Path:
    content = io.BytesIO()
    mx.save_safetensors(content, {str(i): array for i, array in enumerate(arrays)})
    part = folder / f"{name}-{os.getpid()}.part"
    # Not through a link, nor into a file that is there already.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content.getbuffer())
    except OSError:  # A full disk would keep the beginning of every block.
        part.unlink(missing_ok=True)
        raise
    path = folder / f"{name}-{zlib.crc32(content.getbuffer()):08x}.safetensors"
    part.rename(path)
    return path


def _load(path: Path) -> list[mx.array]:
    """
    Raises:
        OSError, ValueError, RuntimeError: the file is missing or damaged.
    """
    if f"{zlib.crc32(path.read_bytes()):08x}" != path.stem.partition("-")[2]:
        raise ValueError(f"{path.name} is damaged")
    tensors = cast(dict[str, mx.array], mx.load(str(path)))
    arrays = [tensors[str(i)] for i in range(len(tensors))]
    mx.eval(arrays)
    return arrays
