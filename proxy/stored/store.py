"""Stored answers and conversations: kept, listed, changed, deleted, and dropped by limits."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace

from proxy.config import StoreConfig
from proxy.errors import NotStoredError, StorageError
from proxy.stored.database import Database
from proxy.stored.entry import Entry, Item, Kind, Metadata, Page, Status

log = logging.getLogger("tandem")

_EXPIRY_SECONDS = 3600.0
"""Seconds between two searches for entries that are too old."""
_AT_ONCE = 100
"""Entries that one transaction drops at most: others wait for it."""
_FREE_PAGES_AT_ONCE = 2560
"""Unused pages of 4 KiB that are returned to the disk in one transaction."""
_FIELDS = Entry.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_BY_LABEL = "labels CROSS JOIN entries ON entries.number = labels.entry"
"""Reads entries in the order of one label's index, so that a page needs no other rows."""
_LABELLED = (
    "EXISTS (SELECT 1 FROM labels AS other "
    "WHERE other.key = ? AND other.value = ? AND other.entry = number)"
)
_LOST = {"code": "server_error", "message": "The server ended before the response was complete."}
_DAY = 86400.0


_UNFINISHED: tuple[Status, ...] = ("queued", "in_progress")
_MOST_ENDS = 100
"""Ends that are held in memory: nothing new begins while the disk is full."""
_Place = tuple[str, str]
"""The caller and the id of an entry."""


class _End(Struct, frozen=True):
    """The arguments of `Store.keep` for an entry that has ended."""

    entry: Entry
    metadata: Metadata | None
    items: Sequence[Item]
    parts: Sequence[str]


class Store:
    """The entries of all callers in one database, which the first use opens."""

    def __init__(
        self, folder: Path, limits: StoreConfig, clock: Callable[[], float] = time.time
    ) -> None:
        """`folder` is created with the database in it; `clock` tells seconds since 1970."""
        self.limits = limits
        self._database = Database(folder / "answers.sqlite", self._fail_lost)
        self._clock = clock
        self._begun: set[_Place] = set()
        """Entries of this server that the file has as unfinished."""
        self._ends: dict[_Place, _End] = {}
        """Their ends that could not be written."""

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Open a database that exists: fail what a killed server left behind, drop what is old."""
        if self._database.exists():
            await self.expire()
        expiry = asyncio.create_task(self._expire_regularly())
        try:
            yield
        finally:
            expiry.cancel()
            await self._database.aclose()

    def describe(self) -> str:
        """Say where answers are kept and how long, for the start of the server."""
        days = f"{self.limits.max_age / _DAY:g}"
        size = f"{self.limits.max_bytes / 2**20:g} MiB"
        return (
            f"Stored answers are kept in {self._database.path} for {days} days, at most "
            f"{self.limits.max_count} and {size}. `server.store: false` keeps none."
        )

    @property
    def failure(self) -> str | None:
        """The reason why the disk or the database fails now; `None`: it works."""
        return self._database.failure

    # --- entries ---

    async def keep(
        self,
        entry: Entry,
        metadata: Metadata | None = None,
        items: Sequence[Item] = (),
        parts: Iterable[str] = (),
    ) -> None:
        """Add `entry`, or replace the one with its id, and drop the oldest beyond the limits.

        `items` are added to its conversation, if that still exists; `parts` are the ids by which
        `holders` finds it. What it continues counts as used. The end of an entry that the file has
        as unfinished is held in memory where it cannot be written, so that it does not stay so.

        Raises:
            StorageError: it is larger than `max_bytes`, or the disk does not take it.
        """
        if entry.status in _UNFINISHED:
            entry = replace(entry, server=self._database.server)
        place, end = (entry.caller, entry.id), _End(entry, metadata, items, tuple(parts))
        try:
            await self._write(end)
        except StorageError:
            is_end = place in self._begun and entry.status not in _UNFINISHED
            if is_end and len(self._ends) < _MOST_ENDS:
                self._ends[place] = end
            raise
        self._ends.pop(place, None)
        (self._begun.add if entry.status in _UNFINISHED else self._begun.discard)(place)

    async def _write(self, end: _End) -> None:
        """
        Raises:
            StorageError: as `keep`.
        """
        entry = end.entry
        if entry.size > self.limits.max_bytes:
            raise StorageError(f"it has {entry.size} bytes; `max_bytes` is {self.limits.max_bytes}")

        def keep(connection: Connection) -> None:
            now = self._clock()
            number = _put(connection, entry, now)
            if end.metadata is not None:
                _label(connection, number, end.metadata)
            connection.executemany(
                "INSERT OR IGNORE INTO parts VALUES (?, ?)", [(part, number) for part in end.parts]
            )
            if entry.previous is not None:
                _touch_chain(connection, entry, now)
            if entry.conversation is not None:
                _append(connection, entry.conversation, entry.caller, end.items, now)
            self._drop(connection)

        await self._database.write(keep)

    async def get(self, kind: Kind, key: str, caller: str) -> Entry:
        """Return the entry with the id `key`; one that is held in memory is written, if it can be.

        One that a killed server had in progress has failed.

        Raises:
            NotStoredError: the caller has none.
            StorageError: the database cannot be read.
        """
        end = self._ends.get((caller, key))
        if end is not None and end.entry.kind == kind:
            with suppress(StorageError):
                await self.keep(end.entry, end.metadata, end.items, end.parts)
            return end.entry

        def find(connection: Connection) -> tuple[Entry, bool]:
            entry = _get(connection, kind, key, caller)
            return entry, entry.server is not None and self._database.has_ended(entry.server)

        entry, is_lost = await self._database.read(find)
        if is_lost:
            await self._database.write(self._fail_lost)
            entry, _ = await self._database.read(find)
        return entry

    async def list(
        self,
        kind: Kind,
        caller: str,
        page: Page,
        *,
        model: str | None = None,
        metadata: Metadata | None = None,
    ) -> tuple[Sequence[Item], bool]:
        """Return the entries of a page, in order of creation, and whether there are more.

        `model` and `metadata` restrict the list to entries with these.

        Raises:
            NotStoredError: the caller has no entry `page.after`.
            StorageError: the database cannot be read.
        """

        def select(connection: Connection) -> tuple[Sequence[Item], bool]:
            where: list[tuple[str, Sequence[object]]] = [
                ("kind = ? AND caller = ?", (kind, caller))
            ]
            if model is not None:
                where.append(("model = ?", (model,)))
            after = None if page.after is None else _number(connection, kind, page.after, caller)
            first, *others = (metadata or {}).items() or (None,)
            if first is None:
                return _page(connection, "entries", "number", where, page, after)
            where.append(("labels.key = ? AND labels.value = ?", first))
            where += [(_LABELLED, label) for label in others]
            return _page(connection, _BY_LABEL, "labels.entry", where, page, after)

        return await self._database.read(select)

    async def set_metadata(self, kind: Kind, key: str, caller: str, metadata: Metadata) -> bytes:
        """Replace the metadata of an entry, also in its object, which is returned.

        Raises:
            NotStoredError: the caller has no such entry.
            StorageError: the disk does not take it.
        """

        def update(connection: Connection) -> bytes:
            entry = _get(connection, kind, key, caller)
            changed = _with(entry.object, metadata=metadata)
            growth = len(changed) - len(entry.object)
            (number,) = connection.execute(
                "UPDATE entries SET object = ?, bytes = bytes + ?, used = ? WHERE id = ? "
                "RETURNING number",
                (changed, growth, self._clock(), key),
            ).fetchone()
            _label(connection, number, metadata)
            return changed

        return await self._database.write(update)

    async def delete(self, kind: Kind, key: str, caller: str) -> None:
        """Delete an entry, with the items of a conversation.

        Raises:
            NotStoredError: the caller has no such entry.
            StorageError: the disk does not take it.
        """

        def delete(connection: Connection) -> None:
            number = _number(connection, kind, key, caller)
            connection.execute("DELETE FROM entries WHERE number = ?", (number,))

        await self._database.write(delete)
        self._begun.discard((caller, key))
        self._ends.pop((caller, key), None)

    async def chain(self, key: str, caller: str) -> Sequence[Entry]:
        """Return the response `key` and all that it continues, oldest first.

        Raises:
            NotStoredError: the caller does not have one of them any more.
            StorageError: the database cannot be read.
        """

        def follow(connection: Connection) -> Sequence[Entry]:
            entries = [_get(connection, "response", key, caller)]
            while (previous := entries[-1].previous) is not None:
                entries.append(_get(connection, "response", previous, caller))
            return entries[::-1]

        entries = await self._database.read(follow)
        if entries[-1].server is None:
            return entries
        return [*entries[:-1], await self.get("response", key, caller)]

    async def holders(self, parts: Sequence[str], caller: str) -> Mapping[str, Entry | Item]:
        """Return, for each id of `parts`, an answer that contains it, or the item of a
        conversation that has it; unknown ones are left out.

        Raises:
            StorageError: the database cannot be read.
        """

        def find(connection: Connection) -> Mapping[str, Entry | Item]:
            found = {part: _holder(connection, part, caller) for part in parts}
            return {part: holder for part, holder in found.items() if holder is not None}

        return await self._database.read(find)

    # --- items of conversations ---

    async def append(self, conversation: str, caller: str, items: Sequence[Item]) -> None:
        """Add `items` at the end of a conversation; one with a known id replaces that.

        Raises:
            NotStoredError: the caller has no such conversation.
            StorageError: the disk does not take it.
        """

        def append(connection: Connection) -> None:
            _number(connection, "conversation", conversation, caller)
            _append(connection, conversation, caller, items, self._clock())
            self._drop(connection)

        await self._database.write(append)

    async def items(
        self, conversation: str, caller: str, page: Page, *, last: int | None = None
    ) -> tuple[Sequence[Item], bool]:
        """Return the items of a page, and whether there are more; none is later than `last`.

        Raises:
            NotStoredError: the caller has no such conversation, or it has no item `page.after`.
            StorageError: the database cannot be read.
        """

        def select(connection: Connection) -> tuple[Sequence[Item], bool]:
            number = _number(connection, "conversation", conversation, caller)
            where: list[tuple[str, Sequence[object]]] = [("conversation = ?", (number,))]
            if last is not None:
                where.append(("number <= ?", (last,)))
            after = None if page.after is None else _item(connection, number, page.after).number
            return _page(connection, "items", "number", where, page, after)

        return await self._database.read(select)

    async def item(self, conversation: str, caller: str, key: str) -> Item:
        """Return the item `key`; errors as `items`."""
        return await self._database.read(
            lambda connection: _item(
                connection, _number(connection, "conversation", conversation, caller), key
            )
        )

    async def delete_item(self, conversation: str, caller: str, key: str) -> None:
        """Delete the item `key`; errors as `append`, and `NotStoredError` without such an item."""

        def delete(connection: Connection) -> None:
            number = _number(connection, "conversation", conversation, caller)
            item = _item(connection, number, key)
            connection.execute("DELETE FROM items WHERE number = ?", (item.number,))

        await self._database.write(delete)

    # --- limits ---

    async def expire(self) -> None:
        """Drop what is too old or too much, and return unused space; errors are logged."""

        def drop(connection: Connection) -> int:
            dropped = self._drop(connection)
            connection.execute(f"PRAGMA incremental_vacuum({_FREE_PAGES_AT_ONCE})").fetchall()
            return dropped

        try:
            while await self._database.write(drop) == _AT_ONCE:
                pass
        except StorageError as exc:
            log.error("Stored answers: old ones cannot be dropped: %s", exc)

    async def _expire_regularly(self) -> None:
        while True:
            await asyncio.sleep(min(_EXPIRY_SECONDS, self.limits.max_age))
            if self._database.exists():
                await self.expire()

    def _fail_lost(self, connection: Connection) -> None:
        """Mark the answers that killed servers had in progress as failed."""
        rows = connection.execute(
            "SELECT number, object, server FROM entries WHERE status IN ('queued', 'in_progress')"
        ).fetchall()
        lost = [
            (_with(content, status="failed", error=_LOST), number)
            for number, content, server in rows
            if server is None or self._database.has_ended(server)
        ]
        connection.executemany(
            "UPDATE entries SET status = 'failed', object = ?, server = NULL, "
            "bytes = length(object) + length(input) WHERE number = ?",
            lost,
        )

    def _drop(self, connection: Connection) -> int:
        """Drop what is too old, then the oldest as long as there is too much. Returns how many.

        Answers in progress stay.
        """
        entries, size = connection.execute("SELECT entries, bytes FROM totals").fetchone()
        oldest = connection.execute(
            "SELECT number, used, bytes FROM entries WHERE status NOT IN ('queued', 'in_progress') "
            "ORDER BY used, number LIMIT ?",
            (_AT_ONCE,),
        )
        dropped: list[tuple[int]] = []
        before = self._clock() - self.limits.max_age
        for number, used, bytes_ in oldest:
            enough = entries <= self.limits.max_count and size <= self.limits.max_bytes
            if enough and used >= before:
                break
            dropped.append((number,))
            entries, size = entries - 1, size - bytes_
        connection.executemany("DELETE FROM entries WHERE number = ?", dropped)
        return len(dropped)


def _put(connection: Connection, entry: Entry, now: float) -> int:
    """Insert or replace `entry`; returns its number."""
    places = ", ".join("?" * len(_FIELDS))
    updates = ", ".join([f"{name} = excluded.{name}" for name in (*_FIELDS, "used", "bytes")])
    row = connection.execute(
        f"INSERT INTO entries ({_COLUMNS}, used, bytes) VALUES ({places}, ?, ?) "  # noqa: S608 - column names
        f"ON CONFLICT (id) DO UPDATE SET {updates} RETURNING number",
        (*astuple(entry), now, entry.size),
    ).fetchone()
    return row[0]


def _get(connection: Connection, kind: Kind, key: str, caller: str) -> Entry:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM entries WHERE id = ? AND kind = ? AND caller = ?",  # noqa: S608 - column names
        (key, kind, caller),
    ).fetchone()
    if row is None:
        raise NotStoredError(kind, key)
    return Entry(**dict(zip(_FIELDS, row, strict=True)))


def _number(connection: Connection, kind: Kind, key: str, caller: str) -> int:
    row = connection.execute(
        "SELECT number FROM entries WHERE id = ? AND kind = ? AND caller = ?", (key, kind, caller)
    ).fetchone()
    if row is None:
        raise NotStoredError(kind, key)
    return row[0]


def _holder(connection: Connection, part: str, caller: str) -> Entry | Item | None:
    columns = ", ".join([f"entries.{name}" for name in _FIELDS])
    row = connection.execute(
        f"SELECT {columns} FROM parts JOIN entries ON entries.number = parts.entry "  # noqa: S608 - column names
        "WHERE parts.id = ? AND caller = ? ORDER BY entries.number DESC LIMIT 1",
        (part, caller),
    ).fetchone()
    if row is not None:
        return Entry(**dict(zip(_FIELDS, row, strict=True)))
    row = connection.execute(
        "SELECT items.id, items.object, items.number FROM items "
        "JOIN entries ON entries.number = items.conversation "
        "WHERE items.id = ? AND caller = ? ORDER BY items.number DESC LIMIT 1",
        (part, caller),
    ).fetchone()
    return None if row is None else Item(*row)


def _item(connection: Connection, conversation: int, key: str) -> Item:
    row = connection.execute(
        "SELECT id, object, number FROM items WHERE conversation = ? AND id = ?",
        (conversation, key),
    ).fetchone()
    if row is None:
        raise NotStoredError("item", key)
    return Item(*row)


def _page(
    connection: Connection,
    table: str,
    order: str,
    conditions: Sequence[tuple[str, Sequence[object]]],
    page: Page,
    after: int | None,
) -> tuple[Sequence[Item], bool]:
    """Select a page, and tell whether there are more; without a limit select all."""
    way, sign = ("ASC", ">") if page.order == "asc" else ("DESC", "<")
    if after is not None:
        conditions = [*conditions, (f"{order} {sign} ?", (after,))]
    where = " AND ".join([condition for condition, _ in conditions])
    values = [value for _, each in conditions for value in each]
    rows = connection.execute(
        f"SELECT id, object, number FROM {table} WHERE {where} ORDER BY {order} {way} LIMIT ?",  # noqa: S608 - constants
        (*values, -1 if page.limit is None else page.limit + 1),
    ).fetchall()
    return [Item(*row) for row in rows[: page.limit]], len(rows) > (page.limit or len(rows))


def _label(connection: Connection, number: int, metadata: Metadata) -> None:
    """Replace the metadata by which an entry is found."""
    connection.execute("DELETE FROM labels WHERE entry = ?", (number,))
    connection.executemany(
        "INSERT INTO labels VALUES (?, ?, ?)",
        [(key, value, number) for key, value in metadata.items()],
    )


def _touch_chain(connection: Connection, entry: Entry, now: float) -> None:
    """Count what `entry` continues as used, so that it is not dropped before it."""
    connection.execute(
        "WITH RECURSIVE chain (id) AS (SELECT ? UNION SELECT previous FROM entries "
        "JOIN chain USING (id) WHERE previous IS NOT NULL AND caller = ?) "
        "UPDATE entries SET used = ? WHERE id IN (SELECT id FROM chain) AND caller = ?",
        (entry.previous, entry.caller, now, entry.caller),
    )


def _append(
    connection: Connection, conversation: str, caller: str, items: Sequence[Item], now: float
) -> None:
    """Add `items` to a conversation, if it exists, and count it as used."""
    row = connection.execute(
        "UPDATE entries SET used = ? WHERE id = ? AND kind = 'conversation' AND caller = ? "
        "RETURNING number",
        (now, conversation, caller),
    ).fetchone()
    if row is None:
        return
    # Not INSERT OR REPLACE, which skips the trigger that counts bytes.
    connection.executemany(
        "DELETE FROM items WHERE conversation = ? AND id = ?", [(row[0], i.id) for i in items]
    )
    connection.executemany(
        "INSERT INTO items (conversation, id, object) VALUES (?, ?, ?)",
        [(row[0], item.id, item.object) for item in items],
    )


def _with(content: bytes, **fields: object) -> bytes:
    """Set fields of a JSON object."""
    return msgspec.json.encode(msgspec.json.decode(content, type=dict[str, Any]) | fields)
