"""SQLite schema of stored answers: settings of a connection, tables, and migrations."""

from collections.abc import Sequence

SETTINGS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA journal_size_limit = 4194304",
    "PRAGMA cache_size = -2048",
)
"""Settings of each connection. WAL with NORMAL loses nothing that was committed when the process is
killed; a power failure can lose the last transactions. Deleted text is overwritten with zeros."""

_FIRST = (
    """CREATE TABLE entries (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        caller TEXT NOT NULL,
        model TEXT NOT NULL,
        status TEXT NOT NULL,
        previous TEXT,
        conversation TEXT,
        last_item INTEGER,
        used REAL NOT NULL,
        bytes INTEGER NOT NULL,
        object BLOB NOT NULL,
        input BLOB NOT NULL,
        events BLOB
    )""",
    "CREATE INDEX entries_listed ON entries (kind, caller, number, model)",
    "CREATE INDEX entries_by_use ON entries (used, number, bytes, status)",
    "CREATE INDEX entries_unfinished ON entries (status) WHERE status IN ('queued', 'in_progress')",
    """CREATE TABLE labels (
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        entry INTEGER NOT NULL REFERENCES entries (number) ON DELETE CASCADE,
        PRIMARY KEY (key, value, entry)
    ) WITHOUT ROWID""",
    "CREATE INDEX labels_of_entry ON labels (entry)",
    """CREATE TABLE items (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES entries (number) ON DELETE CASCADE,
        id TEXT NOT NULL,
        object BLOB NOT NULL,
        UNIQUE (conversation, id)
    )""",
    "CREATE INDEX items_by_id ON items (id)",
    """CREATE TABLE parts (
        id TEXT NOT NULL,
        entry INTEGER NOT NULL REFERENCES entries (number) ON DELETE CASCADE,
        PRIMARY KEY (id, entry)
    ) WITHOUT ROWID""",
    "CREATE INDEX parts_of_entry ON parts (entry)",
    "CREATE TABLE totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (0, 0)",
    """CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
        UPDATE totals SET entries = entries + 1, bytes = bytes + NEW.bytes;
    END""",
    """CREATE TRIGGER entry_removed AFTER DELETE ON entries BEGIN
        UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.bytes;
    END""",
    """CREATE TRIGGER entry_resized AFTER UPDATE OF bytes ON entries BEGIN
        UPDATE totals SET bytes = bytes + NEW.bytes - OLD.bytes;
    END""",
    """CREATE TRIGGER item_added AFTER INSERT ON items BEGIN
        UPDATE entries SET bytes = bytes + length(NEW.object) WHERE number = NEW.conversation;
    END""",
    """CREATE TRIGGER item_removed AFTER DELETE ON items BEGIN
        UPDATE entries SET bytes = bytes - length(OLD.object) WHERE number = OLD.conversation;
    END""",
)
"""`entries` has answers and conversations, `labels` their metadata, `items` the items of
conversations, `parts` the ids of the items in answers, `totals` one row, which triggers keep.
`used` is the time of creation or last use, in seconds since 1970; `last_item` the number of the
conversation's last item when the answer began."""

_SERVERS = ("ALTER TABLE entries ADD COLUMN server TEXT",)
"""`server` is the id of the server that has the answer in progress."""

MIGRATIONS: Sequence[Sequence[str]] = (_FIRST, _SERVERS)
"""Statements that lead from version `n` to `n + 1`; `PRAGMA user_version` has the version."""
