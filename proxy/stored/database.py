"""One SQLite database: private files, a thread of its own, damaged files set aside.

Several servers may share the file.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

from adapters.config import make_private_folder
from proxy.errors import StorageError
from proxy.stored.schema import MIGRATIONS, SETTINGS
from proxy.stored.servers import Presence, has_ended

log = logging.getLogger("tandem")

T = TypeVar("T")
Job = Callable[[Connection], T]
"""Statements of one transaction. It runs a second time where the file was found to be damaged."""

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY = 0xFF
"""The bits of SQLite's extended error codes that are the primary code."""


class Database:
    """Runs jobs one after another on one thread: one writer, and the event loop never waits.

    A job takes one change of threads and ends on its own, even if its caller is cancelled. A
    library with an awaitable call for each statement would need a lock and a rollback for each
    cancelled task, and six changes of threads for a write.
    """

    def __init__(self, path: Path, recover: Job[None]) -> None:
        """`recover` runs once after opening."""
        self.path = path
        self._recover = recover
        self._file: _File | None = None
        self._failures: dict[str, str] = {}
        """The reasons by the kind of transaction, if the latest one of a kind has failed."""

    @property
    def failure(self) -> str | None:
        """The reason why the latest write or read failed, without a path; `None`: it did not."""
        return next(iter(self._failures.values()), None)

    @property
    def server(self) -> str:
        """The id of this server among those that use the file, for `has_ended`."""
        return self._opened().server

    def has_ended(self, server: str) -> bool:
        """Return true if `server` uses the file no longer. Blocks, for jobs.

        Raises:
            OSError: that cannot be found out.
        """
        return has_ended(_servers(self.path), server)

    def exists(self) -> bool:
        """Return whether there is a file; false for one that this user cannot reach."""
        return os.path.exists(self.path)

    async def read(self, job: Job[T]) -> T:
        """Run a `job` that changes nothing.

        Raises:
            StorageError: the database cannot be opened or read.
        """
        return await self._run(job, "BEGIN")

    async def write(self, job: Job[T]) -> T:
        """Run `job` in a transaction.

        Raises:
            StorageError: the database cannot be opened or written; nothing of `job` is kept.
        """
        return await self._run(job, "BEGIN IMMEDIATE")

    async def _run(self, job: Job[T], begin: str) -> T:
        try:
            result = await self._opened().run(job, begin)
        except StorageError as exc:
            reason = exc.__cause__.strerror if isinstance(exc.__cause__, OSError) else None
            self._failures[begin] = reason or str(exc)
            raise
        self._failures.pop(begin, None)
        return result

    async def aclose(self) -> None:
        """Finish the jobs in progress and close the file. A later job opens it anew."""
        file, self._file = self._file, None
        if file is not None:
            await file.aclose()

    def _opened(self) -> "_File":
        if self._file is None:
            self._file = _File(self.path, self._recover)
        return self._file


class _File:
    """The open file, with the only thread that may use its connection.

    A job that arrives while it is closed gets another one, with a thread of its own.
    """

    def __init__(self, path: Path, recover: Job[None]) -> None:
        self._path = path
        self._recover = recover
        self._connection: Connection | None = None
        self._identity: _Identity | None = None
        """That of the open file."""
        self._presence = Presence(_servers(path))
        self._thread = ThreadPoolExecutor(1, "stored-answers")

    @property
    def server(self) -> str:
        return self._presence.server

    async def run(self, job: Job[T], begin: str) -> T:
        """Run `job` in a transaction that `begin` begins.

        Raises:
            StorageError: the file cannot be opened, read or written.
        """
        return await self._on_thread(lambda: self._run(job, begin))

    async def aclose(self) -> None:
        try:
            await self._on_thread(self._close)
        finally:
            self._thread.shutdown(wait=False)

    async def _on_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # --- on the thread ---

    def _run(self, job: Job[T], begin: str) -> T:
        try:
            try:
                return self._transaction(job, begin)
            except sqlite3.DatabaseError as exc:
                if not _is_damage(exc):
                    raise
                self._set_aside(exc)
                return self._transaction(job, begin)
        except (sqlite3.Error, OSError) as exc:
            raise StorageError(str(exc)) from exc

    def _transaction(self, job: Job[T], begin: str) -> T:
        if self._identity != _identity(self._path):
            self._close()  # The file was deleted or replaced: nothing of it is read again.
        if self._connection is None:
            self._connection = self._open()
            self._identity = _identity(self._path)
        return _in_transaction(self._connection, job, begin)

    def _open(self) -> Connection:
        self._prepare_files()
        connection = sqlite3.connect(self._path, isolation_level=None, cached_statements=64)
        try:
            for statement in SETTINGS:
                connection.execute(statement)
            _in_transaction(connection, _migrate)
            _in_transaction(connection, self._recover)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare_files(self) -> None:
        """Create folder and file, with no access for others."""
        folder = self._path.parent
        make_private_folder(folder)
        folder.chmod(0o700)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)  # SQLite copies the mode.
        os.fchmod(file, 0o600)
        os.close(file)
        self._presence.begin()

    def _set_aside(self, exc: sqlite3.DatabaseError) -> None:
        """Rename a damaged file, so that the next job begins a new one."""
        self._close()
        aside = self._path.with_name(f"{self._path.stem}.damaged{self._path.suffix}")
        log.error(
            "Stored answers: %s is damaged (%s). It was set aside as %s, and a new file is used.",
            *(self._path, exc, aside),
        )
        self._path.replace(aside)
        for ending in ("-wal", "-shm"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._presence.end()


def _servers(path: Path) -> Path:
    """Return the folder with a file for each server that uses the database at `path`."""
    return path.with_suffix(".servers")


_Identity = tuple[int, int]
"""Device and inode."""


def _identity(path: Path) -> _Identity | None:
    """Return the identity of the file at `path`; `None` if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _migrate(connection: Connection) -> None:
    """Bring the tables to the version of this program.

    Raises:
        StorageError: the file was written by a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StorageError(f"the file has version {version}, made by a newer Tandem")
    for statement in [each for step in MIGRATIONS[version:] for each in step]:
        connection.execute(statement)
    if version < len(MIGRATIONS):
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _in_transaction(connection: Connection, job: Job[T], begin: str = "BEGIN IMMEDIATE") -> T:
    connection.execute(begin)
    try:
        result = job(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it by itself where the disk is full.
            connection.execute("ROLLBACK")
        raise
    return result


def _is_damage(exc: sqlite3.DatabaseError) -> bool:
    return getattr(exc, "sqlite_errorcode", 0) & _PRIMARY in _DAMAGE
