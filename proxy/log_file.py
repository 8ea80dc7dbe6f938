"""The log of a server: its stderr, and a file in the state folder for `tandem logs`."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO

from adapters.config import make_private_folder

LOG_FILE = "server.log"
"""In the state folder; the one before it, when it was full, is `server.log.1`."""
LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"
_MAX_BYTES = 10_000_000
_REST_SECONDS = 60.0
"""Until a file that could not be written, on a full disk, is tried again."""


class LogStream(Protocol):
    """The part of a text stream that logs use."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> None: ...


class LogFile:
    """Writes to a stream and to a file, which only its user can read. Safe to use from threads."""

    def __init__(
        self,
        stream: TextIO | None,
        path: Path | None,
        max_bytes: int = _MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stream` is `None` where the process has no stderr.

        `path` is replaced when it has more than `max_bytes`; `None`: the stream alone.
        """
        self._stream = stream
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._rests_until = 0.0
        self._lock = threading.Lock()
        self._file: TextIO | None = None

    def write(self, text: str, /) -> None:
        with self._lock:
            if self._path is not None and self._clock() >= self._rests_until:
                self._keep(self._path, text)
        if self._stream is not None:
            self._stream.write(text)

    def flush(self) -> None:
        with self._lock:
            try:
                if self._file is not None:
                    self._file.flush()
            except OSError as exc:
                self._rest(exc)
        if self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        """Close the file; the stream stays open, and takes what comes later."""
        with self._lock:
            self._path = None
            self._close_file()

    def _keep(self, path: Path, text: str) -> None:
        """Write to the file."""
        try:
            if self._file is None:
                make_private_folder(path.parent)
                self._file = _opened(path)
            self._file.write(text)
            if self._file.tell() > self._max_bytes:
                self._file.close()
                path.replace(path.with_name(f"{path.name}.1"))
                self._file = _opened(path)
        except OSError as exc:
            self._rest(exc)

    def _rest(self, exc: OSError) -> None:
        """Leave the file alone for a while; the stream says so."""
        self._close_file()
        self._rests_until = self._clock() + _REST_SECONDS
        if self._stream is not None:
            reason = f"{self._path} cannot be written: {exc.strerror}"
            self._stream.write(f"{reason}. `tandem logs` lacks what follows.\n")

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # On a full disk, what is not written yet is lost.
                file.close()


def _opened(path: Path) -> TextIO:
    return open(path, "a", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600))
