"""The send buffer: pieces that arrive together are sent together, and its size has a limit."""

import asyncio
import weakref
from collections.abc import Callable

import pytest
from fakes.waiting import pause, turns, until

from proxy.http.send_buffer import SendBuffer


async def test_what_came_together_leaves_together():
    buffer = SendBuffer(60, b": keepalive\n\n")
    for word in (b"a", b"b", b"c"):
        buffer.put(word)
    buffer.end()
    assert [await buffer.take(), await buffer.take()] == [b"abc", b""]


async def test_what_comes_alone_leaves_at_once():
    buffer = SendBuffer(60, b": keepalive\n\n")
    buffer.put(b"a")
    assert await buffer.take() == b"a"
    taking = asyncio.create_task(buffer.take())
    await asyncio.sleep(0)
    buffer.put(b"b")
    assert await taking == b"b"


async def test_burst_that_leaves_turns_to_others_is_one_body():
    buffer = SendBuffer(60, b": keepalive\n\n")

    async def burst() -> None:
        for _ in range(10):
            buffer.put(b"x")
            buffer.put(b"x")
            await asyncio.sleep(0)

    bursting = asyncio.create_task(burst())
    await buffer.begun
    assert await buffer.take() == b"x" * 20
    await bursting


async def test_burst_without_end_is_cut_into_bodies():
    buffer = SendBuffer(60, b": keepalive\n\n")

    async def endless() -> None:
        while True:
            buffer.put(b"x" * 1000)
            buffer.put(b"x" * 1000)
            if buffer.is_full:
                await buffer.drain()
            await asyncio.sleep(0)

    bursting = asyncio.create_task(endless())
    await buffer.begun
    async with asyncio.timeout(20):
        sizes = [len(await buffer.take()) for _ in range(5)]
    assert max(sizes) < 70_000
    bursting.cancel()


async def test_full_one_holds_the_answer_up_until_it_is_emptied():
    buffer = SendBuffer(60, b": keepalive\n\n")
    buffer.put(b"x" * 100_000)
    assert buffer.is_full
    waiting = asyncio.create_task(buffer.drain())
    await turns()
    assert not waiting.done()
    await buffer.take()
    async with asyncio.timeout(20):
        await waiting
    assert not buffer.is_full


async def test_silence_is_filled_once_in_so_many_seconds():
    buffer = SendBuffer(0.05, b": keepalive\n\n")
    buffer.put(b"a")
    assert await buffer.take() == b"a"
    assert [await buffer.take() for _ in range(2)] == [b": keepalive\n\n"] * 2


async def test_silence_stays_where_clients_know_no_comments():
    buffer = SendBuffer()
    asyncio.get_running_loop().call_later(0.05, buffer.put, b"a")
    async with asyncio.timeout(20):
        assert await buffer.take() == b"a"


@pytest.mark.slow
async def test_words_put_silence_off():
    buffer = SendBuffer(0.3, b": keepalive\n\n")
    for _ in range(4):
        asyncio.get_running_loop().call_later(0.1, buffer.put, b"a")
        assert await buffer.take() == b"a"


async def test_failure_is_told_before_the_first_piece_and_not_after():
    early, late = SendBuffer(60), SendBuffer(60)
    assert early.fail(RuntimeError("no"))
    with pytest.raises(RuntimeError, match="no"):
        await early.begun
    late.put(b"a")
    assert not late.fail(RuntimeError("no"))
    await late.begun


class Scroll:
    """A wire that keeps what is written, and is full when it is told to be."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_full = False
        self.emptied = asyncio.Event()

    def write(self, data: bytes) -> bool:
        if data:
            self.written.append(data)
        return self.is_full

    async def drained(self) -> None:
        if self.is_full:
            await self.emptied.wait()

    def when_disconnected(self, call: Callable[[], None] | None) -> None:
        """Do nothing: this client never disconnects."""


async def poured(buffer: SendBuffer) -> tuple[Scroll, asyncio.Task[None]]:
    wire = Scroll()
    task = asyncio.create_task(buffer.pour(wire))
    await pause(0.01)  # Longer than between two pieces of a burst.
    return wire, task


async def test_piece_that_comes_alone_is_written_at_once():
    buffer = SendBuffer(60, b": keepalive\n\n")
    buffer.put(b"a")
    wire, task = await poured(buffer)
    assert wire.written == [b"a"]
    buffer.put(b"b")
    assert wire.written == [b"a", b"b"]
    buffer.end()
    await task


async def test_burst_is_few_pieces_on_the_wire():
    buffer = SendBuffer(60, b": keepalive\n\n")
    wire, task = await poured(buffer)
    for _ in range(100):
        for _ in range(16):
            buffer.put(b"x")
        await asyncio.sleep(0)
    buffer.end()
    await task
    assert b"".join(wire.written) == b"x" * 1600
    assert len(wire.written) < 10


async def test_full_wire_is_written_to_when_it_is_emptied():
    buffer = SendBuffer(60, b": keepalive\n\n")
    wire, task = await poured(buffer)
    wire.is_full = True
    buffer.put(b"a")  # This fills it.
    for _ in range(3):
        buffer.put(b"x" * 30_000)
        await turns()
    assert wire.written == [b"a"]
    assert buffer.is_full
    waiting = asyncio.create_task(buffer.drain())
    await turns()
    wire.is_full = False
    wire.emptied.set()
    async with asyncio.timeout(20):
        await waiting
    buffer.end()
    await task
    assert wire.written[1] == b"x" * 90_000


async def test_silence_on_the_wire_is_filled():
    buffer = SendBuffer(0.03, b": keepalive\n\n")
    wire, task = await poured(buffer)
    await until(lambda: len(wire.written) >= 2)
    buffer.put(b"a")
    buffer.end()
    await task
    assert wire.written[:2] == [b": keepalive\n\n"] * 2
    assert wire.written[-1] == b"a"


async def test_answer_that_has_ended_is_held_by_no_timer():
    buffer = SendBuffer(60, b": keepalive\n\n")
    taking = asyncio.create_task(buffer.take())
    await turns()
    buffer.end()
    assert await taking == b""
    held = weakref.ref(buffer)
    del buffer, taking
    assert held() is None
