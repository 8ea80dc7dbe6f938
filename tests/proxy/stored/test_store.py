"""The store of answers: lists, limits, callers, conversations, and files that fail."""

import asyncio
import json
import multiprocessing
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.config import StoreConfig
from proxy.errors import NotStoredError, StorageError
from proxy.stored.entry import Entry, Item, Page
from proxy.stored.schema import MIGRATIONS
from proxy.stored.store import Store

CHAT = "chat.completion"
FIRST = Page()


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def stored(folder: Path, clock: Clock | None = None, **limits: Any) -> AsyncIterator[Store]:
    store = Store(folder / "stored", StoreConfig(**limits), clock or Clock())
    async with store.opened():
        yield store


def answer(key: str, **fields: Any) -> Entry:
    content = json.dumps({"id": key, "metadata": {}}).encode()
    return Entry(**({"id": key, "kind": CHAT, "caller": "me", "object": content} | fields))


def response(key: str, **fields: Any) -> Entry:
    return answer(key, kind="response", **fields)


async def keys(store: Store, page: Page = FIRST, **chosen: Any) -> list[str]:
    entries, _ = await store.list(CHAT, "me", page, **chosen)
    return [entry.id for entry in entries]


async def test_answer_is_there_after_a_restart(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("a", input=b'["Hi"]', model="m"))
    async with stored(tmp_path) as store:
        assert await store.get(CHAT, "a", "me") == answer("a", input=b'["Hi"]', model="m")


@pytest.mark.parametrize(
    ("kind", "key", "caller"), [(CHAT, "b", "me"), (CHAT, "a", ""), ("response", "a", "me")]
)
async def test_answer_of_another_caller_or_kind_is_not_found(
    tmp_path: Path, kind: Any, key: str, caller: str
):
    async with stored(tmp_path) as store:
        await store.keep(answer("a"))
        with pytest.raises(NotStoredError):
            await store.get(kind, key, caller)
        with pytest.raises(NotStoredError):
            await store.delete(kind, key, caller)
        with pytest.raises(NotStoredError):
            await store.set_metadata(kind, key, caller, {})
        assert await keys(store) == ["a"]
        assert (await store.list(kind, "you", Page()))[0] == []


async def test_list_has_pages_in_both_orders(tmp_path: Path):
    async with stored(tmp_path) as store:
        for key in "abcde":
            await store.keep(answer(key))
        assert await keys(store, Page(limit=2)) == ["a", "b"]
        assert await keys(store, Page(limit=2, after="b")) == ["c", "d"]
        assert await keys(store, Page(limit=2, after="d")) == ["e"]
        assert await keys(store, Page(limit=3, order="desc")) == ["e", "d", "c"]
        assert await keys(store, Page(order="desc", after="b")) == ["a"]
        assert (await store.list(CHAT, "me", Page(limit=5)))[1] is False
        assert (await store.list(CHAT, "me", Page(limit=4)))[1] is True
        with pytest.raises(NotStoredError):
            await keys(store, Page(after="z"))


async def test_list_is_filtered_by_model_and_metadata(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("a", model="m"), {"x": "1", "y": "2"})
        await store.keep(answer("b", model="n"), {"x": "1"})
        assert await keys(store, model="n") == ["b"]
        assert await keys(store, metadata={"x": "1"}) == ["a", "b"]
        assert await keys(store, metadata={"x": "1", "y": "2"}) == ["a"]
        assert await keys(store, metadata={"x": "2"}) == []


async def test_metadata_is_replaced_in_object_and_filters(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("a"), {"x": "1"})
        changed = await store.set_metadata(CHAT, "a", "me", {"y": "2"})
        assert json.loads(changed) == {"id": "a", "metadata": {"y": "2"}}
        assert (await store.get(CHAT, "a", "me")).object == changed
        assert await keys(store, metadata={"x": "1"}) == []
        assert await keys(store, metadata={"y": "2"}) == ["a"]


async def test_deleted_answer_is_gone_from_file_and_lists(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("a", input=b'["' + b"very secret " * 1000 + b'"]'), {"x": "1"})
        await store.delete(CHAT, "a", "me")
        assert await keys(store) == await keys(store, metadata={"x": "1"}) == []
    assert b"secret" not in (tmp_path / "stored" / "answers.sqlite").read_bytes()


async def test_oldest_beyond_the_count_are_dropped(tmp_path: Path):
    async with stored(tmp_path, max_count=3) as store:
        for key in "abcde":
            await store.keep(answer(key))
        assert await keys(store) == ["c", "d", "e"]


async def test_oldest_beyond_the_bytes_are_dropped(tmp_path: Path):
    size = answer("a", input=b"x" * 1000).size
    async with stored(tmp_path, max_bytes=3 * size) as store:
        for key in "abcd":
            await store.keep(answer(key, input=b"x" * 1000))
        assert await keys(store) == ["b", "c", "d"]
        await store.keep(answer("e", input=b"x" * 2000))
        assert await keys(store) == ["d", "e"]
        with pytest.raises(StorageError, match="max_bytes"):
            await store.keep(answer("f", input=b"x" * 4000))
        assert await keys(store) == ["d", "e"]


async def test_answers_that_are_too_old_are_dropped(tmp_path: Path):
    clock = Clock()
    async with stored(tmp_path, clock, max_age=60) as store:
        await store.keep(answer("a"))
        clock.now += 40
        await store.keep(answer("b"))
        clock.now += 40
        await store.expire()
        assert await keys(store) == ["b"]
    clock.now += 40
    async with stored(tmp_path, clock, max_age=60) as store:
        assert await keys(store) == []


async def test_continued_responses_are_kept_longer_than_unused_ones(tmp_path: Path):
    clock = Clock()
    async with stored(tmp_path, clock, max_count=4) as store:
        for key, previous in (("a", None), ("x", None), ("b", "a"), ("c", "b"), ("d", "c")):
            clock.now += 1
            await store.keep(response(key, previous=previous))
        with pytest.raises(NotStoredError):
            await store.get("response", "x", "me")
        assert [each.id for each in await store.chain("d", "me")] == ["a", "b", "c", "d"]


async def test_chain_with_a_missing_link_is_not_found(tmp_path: Path):
    async with stored(tmp_path) as store:
        for key, previous in (("a", None), ("b", "a"), ("c", "b")):
            await store.keep(response(key, previous=previous))
        await store.delete("response", "a", "me")
        with pytest.raises(NotStoredError, match="'a'"):
            await store.chain("c", "me")


async def test_items_of_a_conversation(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("conv", kind="conversation"))
        await store.append("conv", "me", [Item("1", b"{}"), Item("2", b"{}")])
        last = (await store.item("conv", "me", "2")).number
        await store.append("conv", "me", [Item("3", b'{"a":1}')])

        async def ids(page: Page, last: int | None = None) -> list[str]:
            items, _ = await store.items("conv", "me", page, last=last)
            return [item.id for item in items]

        assert await ids(Page(limit=None)) == ["1", "2", "3"]
        assert await ids(Page(limit=None), last) == ["1", "2"]
        assert await ids(Page(limit=1, order="desc")) == ["3"]
        assert await ids(Page(order="desc", after="3")) == ["2", "1"]
        assert (await store.items("conv", "me", Page(limit=2)))[1] is True
        await store.delete_item("conv", "me", "2")
        assert await ids(Page()) == ["1", "3"]
        with pytest.raises(NotStoredError):
            await store.item("conv", "me", "2")
        with pytest.raises(NotStoredError):
            await store.items("conv", "you", Page())


async def test_response_adds_its_items_to_its_conversation(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("conv", kind="conversation"))
        await store.keep(response("r", conversation="conv"), items=[Item("1", b"{}")])
        assert (await store.items("conv", "me", Page()))[0][0].id == "1"
        await store.delete("conversation", "conv", "me")
        await store.keep(response("s", conversation="conv"), items=[Item("2", b"{}")])
        assert (await store.get("response", "s", "me")).conversation == "conv"


async def test_items_count_for_the_limit_of_bytes(tmp_path: Path):
    clock = Clock()
    async with stored(tmp_path, clock, max_bytes=5000) as store:
        await store.keep(answer("conv", kind="conversation"))
        for content in (b"y" * 3000, b"x" * 3000):
            await store.append("conv", "me", [Item("same", content)])
        await store.keep(answer("a", input=b"x" * 1000))
        assert await keys(store) == ["a"]
        assert (await store.get("conversation", "conv", "me")).id == "conv"
        clock.now += 1
        await store.append("conv", "me", [Item("more", b"x" * 1500)])
        assert await keys(store) == []
        assert len((await store.items("conv", "me", Page()))[0]) == 2


async def test_answers_of_a_killed_server_are_failed(tmp_path: Path):
    entry = response("r", status="in_progress", object=b'{"status":"in_progress","error":null}')
    async with stored(tmp_path) as store:
        await store.keep(entry)
    async with stored(tmp_path) as store:
        found = await store.get("response", "r", "me")
    assert found.status == "failed"
    assert json.loads(found.object)["status"] == "failed"
    assert json.loads(found.object)["error"]["code"] == "server_error"


async def test_answers_in_progress_of_another_server_stay(tmp_path: Path):
    async with stored(tmp_path) as running:
        await running.keep(response("r", status="in_progress", object=b"{}"))
        async with stored(tmp_path) as second:
            assert (await second.get("response", "r", "me")).status == "in_progress"
            await running.keep(response("r", status="completed"))
            assert (await second.get("response", "r", "me")).status == "completed"


@pytest.mark.process
async def test_answer_of_a_killed_server_is_failed_when_another_one_is_asked(tmp_path: Path):
    """Both have the file open, and so does one that is started after the kill."""
    held, ends = multiprocessing.Pipe()
    killed = multiprocessing.get_context("spawn").Process(
        target=begin_and_hang, args=(tmp_path, ends)
    )
    async with stored(tmp_path) as second:
        await second.keep(answer("a"))
        killed.start()
        await asyncio.to_thread(held.recv)
        assert (await second.get("response", "r", "me")).status == "in_progress"
        killed.kill()
        await asyncio.to_thread(killed.join)
        async with stored(tmp_path) as third:
            assert (await second.chain("r", "me"))[-1].status == "failed"
            for store in (second, third):
                found = await store.get("response", "r", "me")
                assert found.status == "failed"
                assert json.loads(found.object)["error"]["code"] == "server_error"


def begin_and_hang(folder: Path, begun: Connection) -> None:
    """Have an answer in progress, in a process of its own."""

    async def begin() -> None:
        async with stored(folder) as store:
            await store.keep(response("r", status="in_progress"))
            begun.send(True)
            await asyncio.Event().wait()

    asyncio.run(begin())


async def test_answers_in_progress_are_not_dropped(tmp_path: Path):
    async with stored(tmp_path, max_count=1) as store:
        await store.keep(response("r", status="in_progress"))
        await store.keep(response("s"))
        assert (await store.get("response", "r", "me")).id == "r"


async def test_files_are_private(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("a"))
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in (tmp_path / "stored", *(tmp_path / "stored").iterdir())
        }
    assert modes == {
        "stored": 0o700,
        "answers.sqlite": 0o600,
        "answers.sqlite-wal": 0o600,
        "answers.sqlite-shm": 0o600,
        "answers.servers": 0o700,
    }


@pytest.mark.parametrize("damage", ["no database", "broken pages"])
async def test_damaged_file_is_set_aside(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "stored" / "answers.sqlite"
    async with stored(tmp_path) as store:
        for key in "abcdefgh":
            await store.keep(answer(key, input=b"x" * 5000))
    content = path.read_bytes()
    broken = b"\xff" * len(content)
    path.write_bytes(broken if damage == "no database" else content[:100] + broken[100:])
    async with stored(tmp_path) as store:
        await store.keep(answer("new"))
        assert await keys(store) == ["new"]
    assert "is damaged" in caplog.text
    assert (tmp_path / "stored" / "answers.damaged.sqlite").exists()


@pytest.mark.parametrize("gone", ["folder", "files", "replaced"])
async def test_deleted_answers_are_gone_and_new_ones_kept(tmp_path: Path, gone: str):
    """An open file outlives its name, and what is written to it then is lost with the process."""
    folder = tmp_path / "stored"
    async with stored(tmp_path) as store, stored(tmp_path) as other:
        await store.keep(answer("old"))
        assert await keys(other) == ["old"]
        shutil.rmtree(folder)
        if gone == "files":
            folder.mkdir()
        elif gone == "replaced":
            await other.keep(answer("of the other"))
        expected = ["of the other", "new"] if gone == "replaced" else ["new"]
        await store.keep(answer("new"))
        assert await keys(store) == await keys(other) == expected
    async with stored(tmp_path) as store:
        assert await keys(store) == expected


async def test_end_that_cannot_be_written_is_found_and_written_later(tmp_path: Path):
    """A client that polls a background response would wait for ever."""
    folder, aside = tmp_path / "stored", tmp_path / "aside"
    async with stored(tmp_path) as store:
        await store.keep(response("a", status="in_progress"))
        folder.rename(aside)
        folder.write_text("no folder")
        with pytest.raises(StorageError):
            await store.keep(response("a", status="completed"))
        assert (await store.get("response", "a", "me")).status == "completed"
        folder.unlink()
        aside.rename(folder)
        assert (await store.get("response", "a", "me")).status == "completed"
    async with stored(tmp_path) as store:
        assert (await store.get("response", "a", "me")).status == "completed"


async def test_end_that_is_too_large_is_found_until_it_is_deleted(tmp_path: Path):
    async with stored(tmp_path, max_bytes=500) as store:
        await store.keep(response("a", status="queued"))
        with pytest.raises(StorageError, match="max_bytes"):
            await store.keep(response("a", status="completed", input=b"x" * 500))
        assert (await store.get("response", "a", "me")).status == "completed"
        await store.delete("response", "a", "me")
        with pytest.raises(NotStoredError):
            await store.get("response", "a", "me")


async def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path):
    (tmp_path / "stored").write_text("a file")
    async with stored(tmp_path) as store:
        with pytest.raises(StorageError, match="stored"):
            await store.keep(answer("a"))


async def test_folder_that_cannot_be_read_ends_no_server(tmp_path: Path):
    async with Store(tmp_path / ("x" * 300), StoreConfig()).opened():
        pass


async def test_file_of_a_newer_version_is_left_alone(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("a"))
    with sqlite3.connect(tmp_path / "stored" / "answers.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    async with stored(tmp_path) as store:
        with pytest.raises(StorageError, match="newer"):
            await store.keep(answer("b"))


async def test_failed_write_keeps_nothing(tmp_path: Path):
    async with stored(tmp_path) as store:
        await store.keep(answer("a"))
        with pytest.raises(StorageError):
            await store.keep(replace(answer("b"), model=None), {"x": "1"})  # type: ignore[arg-type]
        await store.keep(answer("c"))
        assert await keys(store) == ["a", "c"]


async def test_nothing_is_created_before_the_first_answer(tmp_path: Path):
    async with stored(tmp_path):
        pass
    assert not (tmp_path / "stored").exists()
