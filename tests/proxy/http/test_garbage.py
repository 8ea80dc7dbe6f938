"""Answers leave nothing to the garbage collector: its work grows with the answers in progress."""

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from warnings import catch_warnings

import pytest
from fakes.scripted_backend import HANG, ScriptedBackend, chat
from fakes.waiting import until
from servers.served import served

from adapters.events import Started, TextDelta

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/api/chat"]


@contextmanager
def garbage() -> Iterator[list[str]]:
    """The names of this project's types of which an object is left in a cycle by the block."""
    found: list[str] = []
    with catch_warnings(action="ignore"):  # Of sockets that an earlier test left.
        gc.collect()
    gc.freeze()  # What is older does not slow the search down.
    gc.disable()
    try:
        yield found
    finally:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        left = [type(each) for each in gc.garbage]
        gc.garbage.clear()
        gc.enable()
        found += [kind.__name__ for kind in left if kind.__module__.startswith(("proxy", "adapt"))]


def request(path: str, stream: bool) -> bytes:
    body = {**chat(stream=stream), "max_tokens": 5}
    if path == "/v1/completions":
        body["prompt"] = body.pop("messages")[0]["content"]
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def read_answer(port: int, path: str, *, stream: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(path, stream))
    assert b" 200 " in await reader.readuntil(b"\r\n0\r\n\r\n" if stream else b"}")
    writer.close()


@pytest.mark.slow
async def test_answers_leave_no_cycle():
    async with served(ScriptedBackend()) as port:
        with garbage() as found:
            for path in PATHS:
                await read_answer(port, path, stream=False)
                await read_answer(port, path, stream=True)
            await read_answer(port, PATHS[0], stream=False)  # The server has seen all others close.
    assert found == []


@pytest.mark.slow
async def test_clients_that_leave_leave_no_cycle():
    backend = ScriptedBackend([Started(), TextDelta("x"), HANG])
    async with served(backend) as port:
        with garbage() as found:
            for path in PATHS:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(path, stream=True))
                await until(lambda: backend.running == 1)
                writer.transport.abort()
                await until(lambda: backend.running == 0)
    assert found == []
