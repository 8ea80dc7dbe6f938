"""Responses over a WebSocket, by OpenAI's client and by its messages."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import websockets
from fakes.scripted_backend import DONE, HANG, HELLO, EndlessBackend, ScriptedBackend
from fakes.waiting import pause, until
from msgspec.structs import replace
from servers.served import own_server, served
from websockets.asyncio.client import ClientConnection

from adapters.errors import GenerationError
from adapters.events import Started, TextDelta
from adapters.request import TextPart
from proxy.access.config import KeyConfig
from proxy.config import Config, ServerConfig
from proxy.http.protocol import Connection, Deadlines

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(server=ServerConfig(state_folder=str(tmp_path), shutdown_grace=5))


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/v1/responses"


@asynccontextmanager
async def connected(
    config: Config, backend: ScriptedBackend | None = None, **options: Any
) -> AsyncIterator[ClientConnection]:
    backend = backend or ScriptedBackend(HELLO)
    async with served(backend, config) as port, websockets.connect(url(port), **options) as client:
        yield client


async def send(client: ClientConnection, **fields: Any) -> None:
    await client.send(json.dumps({"type": "response.create", "model": "m"} | fields))


async def events_of(client: ClientConnection) -> list[dict[str, Any]]:
    """The events of one answer, to its last one."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in ENDS:
        events.append(json.loads(await client.recv()))
    return events


async def end_of(client: ClientConnection, **fields: Any) -> dict[str, Any]:
    await send(client, **fields)
    return (await events_of(client))[-1]


def said(backend: ScriptedBackend) -> list[tuple[str, str]]:
    """Role and text of each message of the last request."""
    prompt = backend.requests[-1].prompt
    assert isinstance(prompt, tuple)
    return [
        (message.role, "".join([p.text for p in message.content if isinstance(p, TextPart)]))
        for message in prompt
    ]


# --- answers ---


@pytest.mark.slow
async def test_openai_client_gets_the_events_of_a_stream(config: Config):
    async with (
        served(ScriptedBackend(HELLO), config) as port,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x") as client,
        client.responses.connect() as connection,
    ):
        types: list[str] = []
        for _ in range(2):
            await connection.response.create(model="m", input="Hi")
            async for event in connection:
                types.append(event.type)
                if event.type == "response.completed":
                    assert event.response.output_text == "Hello"
                    break
    one = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert types == one * 2


async def test_each_answer_counts_its_events_from_zero(config: Config):
    async with connected(config) as client:
        for _ in range(2):
            await send(client, input="Hi")
            numbers = [event["sequence_number"] for event in await events_of(client)]
            assert numbers == [*range(10)]


@pytest.mark.parametrize("stream", [{}, {"stream": True}, {"stream": False}, {"stream": None}])
async def test_answer_has_the_stream_options_of_its_message(config: Config, stream: dict[str, Any]):
    async with connected(config) as client:
        for wanted in (True, False):
            await send(client, input="Hi", stream_options={"include_obfuscation": wanted}, **stream)
            events = await events_of(client)
            assert events[-1]["type"] == "response.completed"
            assert [event for event in events if "obfuscation" in event] == [
                event for event in events if event["type"].endswith("delta") and wanted
            ]


async def test_answer_is_continued_without_being_stored(config: Config):
    backend = ScriptedBackend(HELLO)
    async with connected(config, backend) as client:
        first = await end_of(client, input="Hi", store=False)
        key = first["response"]["id"]
        second = await end_of(client, input="And?", store=False, previous_response_id=key)
    assert said(backend) == [("user", "Hi"), ("assistant", "Hello"), ("user", "And?")]
    assert second["response"]["previous_response_id"] == key


async def test_answer_that_is_not_stored_ends_with_its_connection(config: Config):
    async with served(ScriptedBackend(HELLO), config) as port:
        async with websockets.connect(url(port)) as client:
            first = await end_of(client, input="Hi", store=False)
        async with websockets.connect(url(port)) as client:
            key = first["response"]["id"]
            event = await end_of(client, input="And?", store=False, previous_response_id=key)
    assert event == {
        "type": "error",
        "status": 400,
        "error": {
            "type": "invalid_request_error",
            "code": "previous_response_not_found",
            "message": f"Previous response with id '{key}' not found.",
            "param": "previous_response_id",
        },
    }


async def test_stored_answer_is_continued_by_another_connection(config: Config):
    backend = ScriptedBackend(HELLO)
    async with served(backend, config) as port:
        async with websockets.connect(url(port)) as client:
            first = await end_of(client, input="Hi")
        async with websockets.connect(url(port)) as client:
            key = first["response"]["id"]
            await end_of(client, input="And?", previous_response_id=key)
    assert said(backend) == [("user", "Hi"), ("assistant", "Hello"), ("user", "And?")]


async def test_stored_answer_after_one_that_is_not_has_the_whole_conversation(config: Config):
    backend = ScriptedBackend(HELLO)
    async with served(backend, config) as port:
        async with websockets.connect(url(port)) as client:
            first = await end_of(client, input="Hi", store=False)
            key = first["response"]["id"]
            second = await end_of(client, input="And?", previous_response_id=key)
        async with websockets.connect(url(port)) as client:
            await end_of(client, input="So?", previous_response_id=second["response"]["id"])
    assert [text for _, text in said(backend)] == ["Hi", "Hello", "And?", "Hello", "So?"]


async def test_failed_continuation_forgets_what_it_continued(config: Config):
    backend = ScriptedBackend(HELLO)
    async with connected(config, backend) as client:
        key = (await end_of(client, input="Hi", store=False))["response"]["id"]
        output = [{"type": "function_call_output", "call_id": "call_lost", "output": "1"}]
        failed = await end_of(client, input=output, store=False, previous_response_id=key)
        again = await end_of(client, input="And?", store=False, previous_response_id=key)
    assert failed["error"]["message"] == (
        "No tool call found for function call output with call_id call_lost."
    )
    assert failed["error"]["param"] == "input[0].call_id"
    assert again["error"]["code"] == "previous_response_not_found"


async def test_warm_up_generates_nothing_and_is_continued(config: Config):
    backend = ScriptedBackend(HELLO)
    async with connected(config, backend) as client:
        warm = await end_of(client, input="Hi", store=False, generate=False)
        assert backend.requests == []
        assert warm["response"]["output"] == []
        assert warm["response"]["status"] == "completed"
        key = warm["response"]["id"]
        await end_of(client, input=[], store=False, previous_response_id=key)
    assert said(backend) == [("user", "Hi")]


# --- lanes ---


async def test_events_repeat_their_stream_id(config: Config):
    async with connected(config) as client:
        await send(client, input="Hi", stream_id="agent_1")
        assert {event["stream_id"] for event in await events_of(client)} == {"agent_1"}


async def test_streams_run_side_by_side(config: Config):
    class Waits(ScriptedBackend):
        def _steps(self, request: Any) -> Any:
            hangs = request.prompt[0].text == "wait"
            return [Started(), HANG] if hangs else HELLO

    backend = Waits()
    async with connected(config, backend) as client:
        await send(client, input="wait", stream_id="a")
        await until(lambda: backend.running == 1)
        await send(client, input="Hi", stream_id="b")
        ended = [json.loads(await client.recv()) for _ in range(12)]
    assert ended[-1]["type"] == "response.completed"
    assert ended[-1]["stream_id"] == "b"


async def test_answers_of_one_stream_follow_each_other(config: Config):
    async with connected(config) as client:
        for text in ("one", "two", "three"):
            await send(client, input=text)
        for _ in range(3):
            assert (await events_of(client))[-1]["type"] == "response.completed"


# --- refusals and failures ---


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("{", None),
        ("[]", None),
        ("{}", "type"),
        ('{"type": "response.steer", "previous_response_id": "r", "input": "Hi"}', "type"),
        ('{"type": "response.create", "model": "m", "stream_id": "a b"}', "stream_id"),
        ('{"type": "response.create", "input": "Hi"}', "model"),
        (
            '{"type": "response.create", "model": "m", "input": "Hi", "background": true}',
            "background",
        ),
    ],
)
async def test_message_is_refused_and_the_connection_goes_on(
    config: Config, message: str, param: str | None
):
    async with connected(config) as client:
        await client.send(message)
        event = json.loads(await client.recv())
        assert event["type"] == "error"
        assert event["status"] == 400
        assert event["error"]["param"] == param
        assert (await end_of(client, input="Hi"))["type"] == "response.completed"


async def test_answer_that_fails_after_its_beginning_ends_once(config: Config):
    backend = ScriptedBackend([Started(), TextDelta("Hel"), GenerationError("It broke.")])
    async with connected(config, backend) as client:
        await send(client, input="Hi")
        events = await events_of(client)
        backend.script = HELLO
        assert (await end_of(client, input="Hi"))["type"] == "response.completed"
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "It broke."
    assert "error" not in {event["type"] for event in events}


async def test_work_ends_when_the_client_has_gone(config: Config):
    backend = ScriptedBackend([Started(), HANG])
    async with connected(config, backend) as client:
        await send(client, input="Hi")
        await until(lambda: backend.running == 1)
        await client.close()
        await until(lambda: backend.running == 0)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "evil.example"}, 403, "forbidden"),
        ({"Origin": "https://evil.example"}, 403, "forbidden"),
    ],
)
async def test_gates_of_http_refuse_a_websocket(
    config: Config, headers: dict[str, str], status: int, code: str
):
    async with served(ScriptedBackend(HELLO), config) as port:
        response = await refused(port, "/v1/responses", headers)
    assert response.status_code == status
    assert json.loads(response.body)["error"]["code"] == code
    assert response.headers["x-request-id"].startswith("req_")


KEY = "a-key-of-a-client-0123456789"
BEARER = {"Authorization": f"Bearer {KEY}"}


def with_key(config: Config, requests_per_minute: int | None = None) -> Config:
    keys = (KeyConfig(name="client", key=KEY, requests_per_minute=requests_per_minute),)
    return replace(config, server=replace(config.server, keys=keys))


async def test_websocket_needs_a_key_where_there_are_keys(config: Config):
    async with served(ScriptedBackend(HELLO), with_key(config)) as port:
        response = await refused(port, "/v1/responses", {})
        unknown = await refused(port, "/v1/nothing", {})
    assert (response.status_code, unknown.status_code) == (401, 401)
    assert json.loads(response.body)["error"]["code"] == "invalid_api_key"


async def test_each_answer_of_a_websocket_is_a_request_of_its_key(config: Config):
    limited = with_key(config, requests_per_minute=2)
    async with connected(limited, additional_headers=BEARER) as client:
        assert (await end_of(client, input="Hi"))["type"] == "response.completed"
        await send(client, input="Hi")
        error = json.loads(await client.recv())
    assert (error["type"], error["status"]) == ("error", 429)
    assert error["error"]["code"] == "rate_limit_exceeded"


async def test_message_with_a_key_that_a_reload_took_away_is_refused(config: Config):
    admin = KeyConfig(name="owner", key="an-admins-key-0123456789", role="admin")
    configs = [
        replace(config, server=replace(config.server, keys=keys))
        for keys in ((admin, KeyConfig(name="client", key=KEY)), (admin,))
    ]
    app = served(ScriptedBackend(HELLO), configs[0], read_config=lambda: configs[1])
    async with (
        app as port,
        websockets.connect(url(port), additional_headers=BEARER) as client,
        httpx.AsyncClient(headers={"x-api-key": "an-admins-key-0123456789"}) as owner,
    ):
        assert (await end_of(client, input="Hi"))["type"] == "response.completed"
        await owner.post(f"http://127.0.0.1:{port}/api/config/reload")
        error = await end_of(client, input="Hi")
    assert (error["type"], error["status"]) == ("error", 401)
    assert error["error"]["code"] == "invalid_api_key"


async def test_other_urls_have_no_websocket(config: Config):
    async with served(ScriptedBackend(HELLO), config) as port:
        response = await refused(port, "/v1/chat/completions", {})
    assert response.status_code == 404
    assert json.loads(response.body)["error"]["message"] == (
        "There is no WebSocket at '/v1/chat/completions'."
    )


def handshake(path: str, headers: dict[str, str]) -> bytes:
    lines = {
        "Host": "localhost",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    } | headers
    head = "".join([f"{name}: {value}\r\n" for name, value in lines.items()])
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()


async def refused(port: int, path: str, headers: dict[str, str], *, behind: bytes = b"") -> Any:
    """The HTTP response to a handshake, which a client cannot send with a foreign `Host`, nor with
    frames directly `behind` it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(handshake(path, headers) + behind)
    status, _, rest = (await reader.read()).decode().partition("\r\n")
    fields, _, body = rest.partition("\r\n\r\n")
    writer.close()
    return websockets.Response(
        int(status.split()[1]),
        "",
        websockets.Headers(dict([line.split(": ", 1) for line in fields.split("\r\n")])),
        body.encode(),
    )


async def test_frame_before_the_response_to_the_handshake_is_refused(
    config: Config, caplog: pytest.LogCaptureFixture
):
    """RFC 6455 lets a client send only once it has read the response."""
    async with served(ScriptedBackend(HELLO), config) as port:
        response = await refused(port, "/v1/responses", {}, behind=b"\x81\x05hello")
        assert response.status_code == 400
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake("/v1/responses", {"Content-Length": "5"}))
        status, _, _ = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        writer.close()
    assert status == b"HTTP/1.1 400 Bad Request"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.slow
async def test_client_that_does_not_read_its_websocket_ends_its_answer(config: Config):
    class Impatient(Connection):
        deadlines = Deadlines(writing=0.3)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # By which Linux would end it as well.
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    backend = EndlessBackend()
    async with served(backend, config, protocol=Impatient) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            text = json.dumps({"type": "response.create", "model": "m", "input": "Hi"}).encode()
            client.setblocking(False)
            client.sendall(handshake("/v1/responses", {}))
            assert await asyncio.get_running_loop().sock_recv(client, 12) == b"HTTP/1.1 101"
            client.sendall(b"\x81%c\0\0\0\0%b" % (0x80 | len(text), text))
            await until(lambda: backend.running > 0)
            await until(lambda: backend.running == 0)


# --- the server's end ---


async def test_shutdown_lets_an_answer_end_and_closes(config: Config):
    ending = asyncio.Event()

    class Waits(ScriptedBackend):
        async def generate(self, request: Any, sink: Any) -> None:
            sink.write(Started())
            self.began.set()
            await ending.wait()
            sink.write(TextDelta("Hello"))
            sink.write(DONE)

    backend = Waits()
    async with (
        own_server(backend, config) as (server, port),
        websockets.connect(url(port)) as client,
    ):
        await send(client, input="Hi")
        await backend.began.wait()
        server.handle_exit(signal.SIGTERM, None)
        ending.set()
        assert (await events_of(client))[-1]["type"] == "response.completed"
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1001
        assert client.close_reason == "The server is shutting down."


async def test_message_over_the_limit_of_bodies_ends_the_connection(tmp_path: Path):
    limits = ServerConfig(state_folder=str(tmp_path), max_body_bytes=1000, shutdown_grace=1)
    config, backend = Config(server=limits), ScriptedBackend(HELLO)
    async with (
        own_server(backend, config) as (_, port),
        websockets.connect(url(port)) as client,
    ):
        await send(client, input="x" * 1000)
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1009
    assert backend.requests == []


async def test_huge_message_is_refused_by_what_it_holds(config: Config):
    async with connected(config) as client:
        await client.send(json.dumps({"type": "response.create", "input": [[]] * 60_000}))
        error = json.loads(await client.recv())
        assert "more than 50000 lists and objects" in error["error"]["message"]
        assert (await end_of(client, input="x" * 2_000_000))["type"] == "response.completed"


# --- clients that send too much ---


def frame(opcode: int, data: bytes) -> bytes:
    """A frame of a client, with a mask of zeros; `data` has fewer than 126 bytes."""
    return bytes([0x80 | opcode, 0x80 | len(data)]) + b"\0\0\0\0" + data


@asynccontextmanager
async def upgraded(port: int) -> AsyncIterator[socket.socket]:
    """A connection that takes frames and reads nothing by itself, with a small buffer."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, handshake("/v1/responses", {}))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await loop.sock_recv(client, 1)
        yield client


async def taken(client: socket.socket, frames: bytes, most: int) -> int:
    """Send `frames` again and again, `most` bytes at most; returns how many the server reads."""
    loop, sent = asyncio.get_running_loop(), 0
    with contextlib.suppress(TimeoutError):
        while sent < most:
            async with asyncio.timeout(1):
                await loop.sock_sendall(client, frames)
            sent += len(frames)
    return sent


@pytest.mark.slow
async def test_pings_of_a_client_that_does_not_read_are_not_read(config: Config):
    """Each of them has an answer."""
    many = frame(9, b"x" * 125) * 1000
    async with served(ScriptedBackend(HELLO), config) as port, upgraded(port) as client:
        assert await taken(client, many, 40_000_000) < 40_000_000


async def test_errors_that_a_client_does_not_read_hold_up_its_messages(config: Config):
    class Narrow(Connection):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    backend = ScriptedBackend(HELLO)
    async with served(backend, config, protocol=Narrow) as port, upgraded(port) as client:
        good = b'{"type":"response.create","model":"m","input":"a"}'
        await taken(client, frame(1, b"{") * 5000 + frame(1, good), 1)
        await pause(1)
        assert backend.requests == []
        reading = asyncio.create_task(everything(client))
        await until(lambda: len(backend.requests) == 1)
        reading.cancel()


async def everything(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, 65_536):
        pass


async def test_short_messages_that_come_at_once_leave_turns_to_others(config: Config):
    count = 5_000
    async with connected(config) as client:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        good = b'{"type": "response.create", "model": "m", "input": "a"}'
        client.transport.write(frame(1, b"{") * count + frame(1, good))
        while json.loads(await client.recv())["type"] not in ENDS[:3]:
            pass
        counting.cancel()
    assert turns > count


async def test_message_that_is_refused_counts_as_a_request(config: Config):
    limited = with_key(config, requests_per_minute=3)
    async with connected(limited, additional_headers=BEARER) as client:
        statuses: list[int] = []
        for _ in range(3):
            await client.send("{")
            statuses.append(json.loads(await client.recv())["status"])
    assert statuses == [400, 400, 429]


async def test_message_in_frames_of_a_byte_is_answered(config: Config):
    text = json.dumps({"type": "response.create", "model": "m", "input": "é" * 100}).encode()
    async with connected(config) as client:
        for data, end in ((text, "response.completed"), (text * 2, "error")):
            await client.send([data[at : at + 1] for at in range(len(data))], text=True)
            assert (await events_of(client))[-1]["type"] == end
