"""The servers that have a database open: each has a lock that ends with its process."""

import fcntl
import os
import secrets
from pathlib import Path

from adapters.config import make_private_folder


class Presence:
    """This server among those that share `folder`: a file with a lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server = secrets.token_hex(8)
        """The id of this server."""
        self._lock: int | None = None

    def begin(self) -> None:
        """Show that this server runs; remove the files of those that were killed.

        Raises:
            OSError: the folder cannot be written.
        """
        make_private_folder(self._folder)
        for path in self._folder.iterdir():
            if has_ended(self._folder, path.name):
                path.unlink(missing_ok=True)
        # Renamed once it is locked: another server would take it for one that was killed.
        new = self._folder.parent / f".{self.server}"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self._folder / self.server)

    def end(self) -> None:
        if self._lock is not None:
            (self._folder / self.server).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def has_ended(folder: Path, server: str) -> bool:
    """Return true unless a process runs that is `server` in `folder`.

    Raises:
        OSError: its file cannot be opened or locked.
    """
    try:
        file = os.open(folder / server, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
