"""The file of stored answers: opened, closed and opened again."""

import asyncio
from pathlib import Path
from sqlite3 import Connection

import pytest

from proxy.stored.database import Database


def count(connection: Connection) -> int:
    (entries,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    return entries


def nothing(_: Connection) -> None:
    """Recovers nothing."""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "stored" / "answers.sqlite", nothing)


async def test_job_after_the_end_opens_the_file_anew(database: Database):
    await database.write(count)
    await database.aclose()
    assert await database.read(count) == 0
    await database.aclose()


async def test_jobs_that_arrive_while_it_is_closed_have_a_connection_of_their_thread(
    database: Database,
):
    # The last answers of a server are kept while it ends, and tests close it twice.
    await database.read(count)
    closing = asyncio.create_task(database.aclose())
    late = [asyncio.create_task(database.read(count)) for _ in range(3)]
    await closing
    late += [asyncio.create_task(database.write(count)) for _ in range(3)]
    assert await asyncio.gather(*late) == [0] * 6
    await database.aclose()
