"""Streams over real sockets: disconnects, backends that never wait, shutdown."""

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
import uvicorn
from anyio import sleep_forever
from fakes.scripted_backend import (
    DONE,
    HANG,
    EndlessBackend,
    ScriptedBackend,
    chat,
)
from fakes.waiting import pause, settled, turns, until
from litestar import Litestar
from servers.served import served

from adapters.events import Started, TextDelta
from adapters.request import GenerationRequest
from adapters.sink import Sink, events
from adapters.turns import Turns
from proxy.app import create_app
from proxy.config import Config, ImagesConfig, ServerConfig
from proxy.errors import ServerShutdownError
from proxy.http.event_stream import Limits, ShutdownGrace, json_line, sse
from proxy.http.protocol import Connection
from proxy.http.send_buffer import WIRE


class SlowBackend(ScriptedBackend):
    """Waits before the last word."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        async for event in events(ScriptedBackend(), request):
            if event == TextDelta("lo"):
                await pause(self.pause)
            sink.write(event)


@pytest.mark.parametrize(
    ("data", "event", "wire"),
    [
        (b'{"a":1}', None, b'data: {"a":1}\n\n'),
        (b"[DONE]", None, b"data: [DONE]\n\n"),
        (b'{"a":1}', "ping", b'event: ping\ndata: {"a":1}\n\n'),
    ],
)
def test_event_on_the_wire(data: bytes, event: str | None, wire: bytes):
    assert sse(data, event) == wire


def test_line_on_the_wire():
    assert json_line(b'{"a":1}') == b'{"a":1}\n'


async def limited(work: Awaitable[Any], grace: ShutdownGrace, request: Any = None) -> Any:
    async with Limits(grace, request):
        return await work


async def test_drain_ends_work_that_outlasts_its_grace():
    grace = ShutdownGrace(grace=0.05)
    waiting = asyncio.create_task(limited(sleep_forever(), grace))
    await asyncio.sleep(0)
    grace.begin()
    with pytest.raises(ServerShutdownError):
        await waiting
    with pytest.raises(ServerShutdownError):  # and what comes after it
        await limited(sleep_forever(), grace)


async def test_drain_lets_work_within_its_grace_end():
    grace = ShutdownGrace(grace=5)
    done = asyncio.Event()
    waiting = asyncio.create_task(limited(done.wait(), grace))
    await asyncio.sleep(0)
    grace.begin()
    done.set()
    assert await waiting


class Leaves:
    """A request with a client that disconnects on demand."""

    def __init__(self) -> None:
        self.scope = {"extensions": {WIRE: self}}

    def when_disconnected(self, call: Callable[[], None] | None) -> None:
        self.go = call


async def test_work_that_waits_for_its_turn_ends_as_soon_as_the_drain_begins():
    grace = ShutdownGrace(grace=60)

    async def queued() -> None:
        async with Limits(grace, has_begun=lambda: False):
            await sleep_forever()

    waiting = asyncio.create_task(queued())
    await asyncio.sleep(0)
    grace.begin()
    with pytest.raises(ServerShutdownError):
        await waiting
    with pytest.raises(ServerShutdownError):  # and what comes after it
        await queued()


async def test_cut_ends_all_work_within_its_grace():
    grace = ShutdownGrace(grace=60)
    waiting = asyncio.create_task(limited(sleep_forever(), grace))
    await asyncio.sleep(0)
    grace.begin()
    await asyncio.sleep(0)
    grace.cut()
    with pytest.raises(ServerShutdownError):
        await waiting


async def test_client_may_go_while_work_ends_that_outlasted_its_grace():
    grace, client = ShutdownGrace(grace=0.0), Leaves()

    async def work() -> None:
        try:
            await sleep_forever()
        finally:
            assert client.go is not None
            client.go()

    grace.begin()
    with pytest.raises(ServerShutdownError):
        await limited(work(), grace, client)


async def test_timeout_of_the_work_itself_is_not_the_drains():
    async def work() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await limited(work(), ShutdownGrace(grace=5))


def post(port: int, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (port, len(data), data)
    )


async def gone(backend: ScriptedBackend) -> None:
    async with asyncio.timeout(20):
        await backend.closed.wait()
    assert backend.running == 0


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("script", [[HANG], [Started(), HANG], [Started(), TextDelta("x"), HANG]])
async def test_client_that_hangs_up_ends_the_work(script: list[Any], streamed: bool):
    backend = ScriptedBackend(script)
    async with served(backend) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(stream=streamed)))
        await until(lambda: backend.running > 0)
        writer.transport.abort()
        await gone(backend)


class Bursts(Connection):
    """Receives a whole body in one piece, as from a fast client while the server is busy."""

    held = b""

    def data_received(self, data: bytes) -> None:
        self.held += data
        if self.held.endswith((b"\r\n\r\n", b"}")):
            piece, self.held = self.held, b""
            super().data_received(piece)


@pytest.mark.parametrize("streamed", [False, True])
async def test_client_that_hangs_up_after_a_large_body_ends_the_work(streamed: bool):
    """The body pauses reading, which goes on, although no handler waits for more of it."""
    backend = ScriptedBackend([HANG])
    message = {"role": "user", "content": "word " * 100_000}
    async with served(backend, protocol=Bursts) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head, _, body = post(port, chat(stream=streamed, messages=[message])).partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        await turns(50)  # The handler waits for the body.
        writer.write(body)
        await until(lambda: backend.running > 0)
        writer.close()
        await gone(backend)


@pytest.mark.parametrize("streamed", [False, True])
async def test_client_that_hangs_up_ends_work_that_never_waits(streamed: bool):
    backend = EndlessBackend()
    async with served(backend) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(stream=streamed)))
        await until(lambda: backend.running > 0)
        writer.close()
        await gone(backend)


async def test_client_that_hangs_up_ends_the_fetch_of_its_images():
    fetching, ended = asyncio.Event(), asyncio.Event()

    async def fetch(_url: str, _config: ImagesConfig) -> bytes:
        fetching.set()
        try:
            return await asyncio.Future[bytes]()
        finally:
            ended.set()

    image = {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}}
    async with served(ScriptedBackend(), fetch_image=fetch) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(messages=[{"role": "user", "content": [image]}])))
        async with asyncio.timeout(20):
            await fetching.wait()
            writer.transport.abort()
            await ended.wait()


async def test_client_that_does_not_read_and_goes_ends_the_work():
    backend = EndlessBackend()
    async with served(backend) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(post(port, chat(stream=True)))
        await reader.read(100)
        await settled(lambda: backend.written)  # The socket's buffers are full.
        writer.transport.abort()
        await gone(backend)


async def test_hundred_clients_that_go_leave_no_task():
    backend = ScriptedBackend([Started(), TextDelta("x"), HANG])
    async with served(backend) as port:
        before = len(asyncio.all_tasks())
        for _ in range(100):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(port, chat(stream=True)))
            await reader.readuntil(b'"content":"x"')
            writer.transport.abort()
        await until(lambda: not backend.running and len(asyncio.all_tasks()) <= before)


async def test_silent_stream_says_that_it_lives_and_loses_nothing():
    backend = SlowBackend(0.15)
    config = Config(server=ServerConfig(keepalive=0.02))
    async with served(backend, config) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(stream=True)))
        said = await reader.readuntil(b"[DONE]")
        writer.close()
    assert said.count(b"\r\n: keepalive\n\n\r\n") >= 2
    assert said.index(b'"Hel"') < said.index(b": keepalive") < said.index(b'"lo"')


async def test_client_that_hangs_up_between_two_comments_ends_the_work():
    backend = ScriptedBackend([Started(), HANG])
    async with served(backend, Config(server=ServerConfig(keepalive=0.02))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(stream=True)))
        await reader.readuntil(b": keepalive")
        writer.transport.abort()
        await gone(backend)


class Alone(Connection):
    turns = Turns(2)


async def test_streams_end_with_an_error_when_the_server_does():
    backend = ScriptedBackend([Started(), TextDelta("x"), HANG])
    config = Config(server=ServerConfig(shutdown_grace=0.1))
    app: Litestar = create_app(config, {backend.kind: backend})
    grace: ShutdownGrace = app.state.parts.grace
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, http=Alone, ws="none", log_level="error"))
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(stream=True)))
        await reader.readuntil(b'"content":"x"')
        grace.begin()
        server.should_exit = True
        rest = await reader.read(-1)
        await task
        writer.close()
    assert b'"code":"server_shutdown"' in rest
    assert b"[DONE]" not in rest


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/v1/chat/completions", "application/json"),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=x"),
    ],
)
async def test_request_of_which_half_has_arrived_is_told_of_the_end_at_once(
    path: str, content_type: str
):
    app = create_app(Config(server=ServerConfig(shutdown_grace=10)), {})
    grace: ShutdownGrace = app.state.parts.grace
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=Alone, ws="none", log_level="error"))
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(f"{head}content-length: 100\r\n\r\n{{".encode())
        await until(lambda: bool(app.state.parts.activity.records))
        grace.begin()
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b"server_shutdown")
        server.should_exit = True
        writer.close()
        await task
    assert answer.startswith(b"HTTP/1.1 503")


WORDS = [Started(), *map(TextDelta, "abcdef"), DONE]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/api/chat"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_texts_are_answered_in_order(path: str, streamed: bool):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": streamed}
    if path == "/v1/completions":
        body = {"model": "m", "prompt": "Hi", "stream": streamed}
    async with served(ScriptedBackend(WORDS)) as port, httpx2.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{port}{path}", json=body)
    pieces = re.findall(r'"(?:content|text)": ?"(\w*)"', answer.text)
    assert "".join(pieces) == "abcdef"
    assert "[DONE]" in answer.text or not (streamed and path.startswith("/v1"))


class CountingBackend(ScriptedBackend):
    """Counts the events that were written."""

    written = 0

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        for step in self.script:
            if sink.write(step):  # type: ignore[arg-type] - the script has events only
                await sink.drain()
            self.written += 1


@pytest.mark.slow
async def test_client_that_does_not_read_holds_up_the_backend():
    """Text that the client does not read is held in the backend, not in the server."""
    many = [TextDelta("x" * 1000)] * 20_000
    backend = CountingBackend([Started(), *many, DONE])
    loop = asyncio.get_running_loop()
    async with served(backend) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, post(port, chat(stream=True)))
            written = await settled(lambda: backend.written)
            assert 0 < written < len(many) / 2
            received = bytearray()
            while b"[DONE]" not in received[-100:]:
                received += await loop.sock_recv(client, 2**20)
            assert received.count(b"x" * 1000) == len(many)
