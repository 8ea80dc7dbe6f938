"""Streams over real sockets: disconnects, sources that never wait, the end of the server."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx2
import pytest
import uvicorn
from fakes.scripted_backend import (
    DONE,
    HANG,
    HELLO,
    EndlessBackend,
    ScriptedBackend,
    ShortBackend,
    chat,
)
from litestar import Litestar
from msgspec import Struct
from msgspec.structs import replace
from served import served, until

from adapters.errors import BadUpstreamError
from adapters.events import Event, Started, TextDelta
from adapters.request import GenerationRequest
from proxy.app import create_app
from proxy.config import Config, ServerConfig
from proxy.errors import ServerShutdownError
from proxy.http.event_stream import Frame, ShutdownGrace, encode_frame, encode_line, limited
from proxy.http.protocol import Connection
from proxy.http.send_buffer import WIRE
from proxy.sinks import collect, each


class SlowBackend(ScriptedBackend):
    """Thinks before the last word."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        async for event in super().generate(request):
            if event == TextDelta("lo"):
                await asyncio.sleep(self.pause)
            yield event


class Data(Struct):
    a: str


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (Frame(Data("é\n")), b'data: {"a":"\xc3\xa9\\n"}\n\n'),
        (Frame(b"[DONE]"), b"data: [DONE]\n\n"),
        (Frame(Data("x"), "ping"), b'event: ping\ndata: {"a":"x"}\n\n'),
    ],
)
def test_frame_on_the_wire(frame: Frame, wire: bytes):
    assert encode_frame(frame) == wire


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (Frame(Data("é\n")), b'{"a":"\xc3\xa9\\n"}\n'),
        (Frame(b'{"a":1}'), b'{"a":1}\n'),
    ],
)
def test_line_on_the_wire(frame: Frame, wire: bytes):
    assert encode_line(frame) == wire


async def test_collect_joins_the_pieces():
    (answer,) = await collect(each(ScriptedBackend(HELLO).generate(None)))  # type: ignore[arg-type]
    assert (answer.text, answer.finished) == ("Hello", DONE)


@pytest.mark.parametrize(
    "script",
    [[], [DONE], [Started()], [Started(), Started()], [TextDelta("x")], [*HELLO, TextDelta("x")]],
)
async def test_events_out_of_order_are_the_backends_fault(script: list[Event]):
    backend = ScriptedBackend(script)
    with pytest.raises(BadUpstreamError):
        await collect(each(backend.generate(None)))  # type: ignore[arg-type]
    assert backend.closed.is_set() or not script


TWO = [
    Started(),
    TextDelta("b", choice=1),
    TextDelta("a"),
    DONE,
    TextDelta("B", choice=1),
    replace(DONE, choice=1),
]


async def test_collect_keeps_choices_apart():
    answers = await collect(each(ScriptedBackend(TWO).generate(None), 2))  # type: ignore[arg-type]
    assert [(answer.text, answer.finished.choice) for answer in answers] == [("a", 0), ("bB", 1)]


@pytest.mark.parametrize(
    "script",
    [
        TWO[:-1],
        [*TWO, TWO[-1]],
        [Started(), DONE, TextDelta("late"), replace(DONE, choice=1)],
        [Started(), TextDelta("x", choice=2), DONE, replace(DONE, choice=1)],
    ],
    ids=["one has no end", "one ends twice", "one goes on", "nobody asked for it"],
)
async def test_choices_out_of_order_are_the_backends_fault(script: list[Event]):
    with pytest.raises(BadUpstreamError):
        await collect(each(ScriptedBackend(script).generate(None), 2))  # type: ignore[arg-type]


async def test_closing_in_mid_stream_closes_the_backend_at_once():
    backend = EndlessBackend()
    events = each(backend.generate(None))  # type: ignore[arg-type]
    async for event in events:
        if isinstance(event, TextDelta):
            break
    assert backend.running == 1
    await events.aclose()
    assert backend.running == 0


async def test_source_that_never_waits_leaves_turns_to_others():
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    count = 0
    events = each(EndlessBackend().generate(None))  # type: ignore[arg-type]
    async for _ in events:
        count += 1
        if count == 1000:
            break
    await events.aclose()
    task.cancel()
    assert turns >= 50


async def test_drain_ends_work_that_outlasts_its_grace():
    drain = ShutdownGrace(grace=0.05)
    waiting = asyncio.create_task(limited(asyncio.sleep(60), drain=drain))
    await asyncio.sleep(0)
    drain.begin()
    with pytest.raises(ServerShutdownError):
        await waiting
    with pytest.raises(ServerShutdownError):  # and what comes after it
        await limited(asyncio.sleep(60), drain=drain)


async def test_drain_lets_work_within_its_grace_end():
    drain = ShutdownGrace(grace=5)
    waiting = asyncio.create_task(limited(asyncio.sleep(0.05, "done"), drain=drain))
    await asyncio.sleep(0)
    drain.begin()
    assert await waiting == "done"


class Leaves:
    """A request whose client goes when it is told to."""

    def __init__(self) -> None:
        self.scope = {"extensions": {WIRE: self}}

    def when_gone(self, call: Callable[[], None] | None) -> None:
        self.go = call


async def test_client_may_go_while_work_ends_that_outlasted_its_grace():
    drain, client = ShutdownGrace(grace=0.0), Leaves()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            assert client.go is not None
            client.go()

    drain.begin()
    with pytest.raises(ServerShutdownError):
        await limited(work(), drain=drain, request=client)  # type: ignore[arg-type]


async def test_timeout_of_the_work_itself_is_not_the_drains():
    async def work() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await limited(work(), drain=ShutdownGrace(grace=5))


def post(port: int, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (port, len(data), data)
    )


async def gone(backend: ScriptedBackend) -> None:
    async with asyncio.timeout(1):
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


@pytest.mark.parametrize("streamed", [False, True])
async def test_client_that_hangs_up_ends_work_that_never_waits(streamed: bool):
    backend = EndlessBackend()
    async with served(backend) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(stream=streamed)))
        await until(lambda: backend.running > 0)
        writer.close()
        await gone(backend)


async def test_client_that_hangs_up_ends_the_fetch_of_its_images(monkeypatch: pytest.MonkeyPatch):
    fetching, ended = asyncio.Event(), asyncio.Event()

    async def fetch(_self: object, _url: str) -> bytes:
        fetching.set()
        try:
            return await asyncio.Future[bytes]()
        finally:
            ended.set()

    monkeypatch.setattr("proxy.images.fetch.Fetcher.fetch", fetch)
    image = {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}}
    async with served(ScriptedBackend()) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(messages=[{"role": "user", "content": [image]}])))
        async with asyncio.timeout(2):
            await fetching.wait()
            writer.transport.abort()
            await ended.wait()


async def test_client_that_does_not_read_and_goes_ends_the_work():
    backend = EndlessBackend()
    async with served(backend) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(post(port, chat(stream=True)))
        await reader.read(100)
        await asyncio.sleep(0.3)  # the socket's buffers are full by now
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


async def test_streams_end_with_an_error_when_the_server_does():
    backend = ScriptedBackend([Started(), TextDelta("x"), HANG])
    config = Config(server=ServerConfig(shutdown_grace=0.1))
    app: Litestar = create_app(config, {backend.kind: backend})
    drain: ShutdownGrace = app.state.parts.drain
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, http=Connection, ws="none", log_level="error"))
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(port, chat(stream=True)))
        await reader.readuntil(b'"content":"x"')
        drain.begin()
        server.should_exit = True
        rest = await reader.read(-1)
        await task
        writer.close()
    assert b'"code":"server_shutdown"' in rest
    assert b"[DONE]" not in rest


WORDS = [Started(), *map(TextDelta, "abcdef"), DONE]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/api/chat"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_texts_that_take_the_shortcut_are_answered_in_order(path: str, streamed: bool):
    backend = ShortBackend(WORDS)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": streamed}
    if path == "/v1/completions":
        body = {"model": "m", "prompt": "Hi", "stream": streamed}
    async with served(backend) as port, httpx2.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{port}{path}", json=body)
    # Lines of Ollama's chat tell the time each.
    assert backend.taken == ([] if path == "/api/chat" and streamed else WORDS[2:-1])
    said = re.findall(r'"(?:content|text)": ?"(\w*)"', answer.text)
    assert "".join(said) == "abcdef"
    assert "[DONE]" in answer.text or not (streamed and path.startswith("/v1"))


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["Hi", "Ho"]},
        {"prompt": ["Hi", "Ho"], "stream": True},
    ],
)
async def test_texts_of_several_prompts_take_no_shortcut(body: dict[str, Any]):
    backend = ShortBackend()
    async with served(backend) as port, httpx2.AsyncClient() as client:
        answer = await client.post(
            f"http://127.0.0.1:{port}/v1/completions", json={"model": "m", **body}
        )
    assert answer.status_code == 200
    assert [request.shortcut for request in backend.requests] == [None, None]


async def test_client_that_does_not_read_holds_up_the_shortcut():
    """What is not read is held in the backend, not here."""
    many = [TextDelta("x" * 1000)] * 20_000
    backend = ShortBackend([Started(), *many, DONE])
    loop = asyncio.get_running_loop()
    async with served(backend) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, post(port, {"model": "m", "messages": CHAT} | STREAMED))
            held = -1
            while held != (held := len(backend.taken)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            assert 0 < held < len(many) / 2
            said = bytearray()
            while b"[DONE]" not in said[-100:]:
                said += await loop.sock_recv(client, 2**20)
            assert said.count(b"x" * 1000) == len(many)


STREAMED = {"stream": True}
CHAT = [{"role": "user", "content": "Hi"}]
