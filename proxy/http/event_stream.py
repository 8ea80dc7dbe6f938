"""Events -> server-sent events or lines of JSON, and what ends them early.

The only place that writes `data: `.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar, cast

import msgspec
from anyio import move_on_after
from litestar import Request
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from adapters.shortcut import Shortcut
from proxy.errors import ClientDisconnectedError, ServerShutdownError
from proxy.http.send_buffer import WIRE, SendBuffer, Wire
from proxy.sinks import CLOSING, closing

_TEXT = secrets.token_hex()
"""Stands for a text, and for nothing that anybody names."""

_GONE = 0.0
"""When a timeout ends that ends because the client has gone: no grace ends so early."""

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Frame(Struct, frozen=True):
    """One server-sent event, or line: a Struct to be encoded, or text as it is."""

    data: Struct | bytes
    event: str | None = None


def _data(frame: Frame) -> bytes:
    return frame.data if isinstance(frame.data, bytes) else msgspec.json.encode(frame.data)


def encode_frame(frame: Frame) -> bytes:
    data = _data(frame)
    if frame.event is None:
        return b"data: " + data + b"\n\n"
    return b"event: %b\ndata: %b\n\n" % (frame.event.encode(), data)


def encode_line(frame: Frame) -> bytes:
    return _data(frame) + b"\n"


class Framing(Struct, frozen=True):
    media_type: str
    content_type: bytes
    """The same as it is sent."""
    encode: Callable[[Frame], bytes]
    has_comments: bool
    """Something may be sent that clients skip, to be heard in a long silence."""


SSE = Framing(
    "text/event-stream", b"text/event-stream; charset=utf-8", encode_frame, has_comments=True
)
NDJSON = Framing("application/x-ndjson", b"application/x-ndjson", encode_line, has_comments=False)
"""Ollama's: its clients take every line for JSON, so a comment would end them."""


class Renderer(Protocol[T_contra]):
    """One answer's way from events to a dialect's frames."""

    def render(self, event: T_contra, /) -> Iterable[Frame]: ...

    def error(self, exc: Exception) -> Iterable[Frame]:
        """The last words of an answer that failed after it had begun."""
        ...


class Texts(Struct, frozen=True):
    """Texts that need no renderer: all that stands around them in a frame is always the same."""

    shortcut: Shortcut
    frame: Callable[[str], Frame]


def around_text(written: Callable[[str], bytes]) -> tuple[bytes, bytes]:
    """What stands before and after the JSON of a text, whatever it is, where it is `written`."""
    before, _, after = written(_TEXT).partition(msgspec.json.encode(_TEXT))
    return before, after


class ShutdownGrace:
    """The end of the server: answers in progress have `grace` seconds left once it begins."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._deadline: float | None = None
        self._waiting: set[asyncio.Timeout] = set()

    @property
    def began(self) -> bool:
        return self._deadline is not None

    def begin(self) -> None:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._grace
        for timeout in self._waiting:
            _end_at(timeout, self._deadline)

    def timeout(self) -> asyncio.Timeout:
        """One that ends with the grace, as long as it is not let go."""
        timeout = asyncio.timeout_at(self._deadline)
        self._waiting.add(timeout)
        return timeout

    def let_go(self, timeout: asyncio.Timeout) -> None:
        self._waiting.discard(timeout)


async def limited(
    work: Awaitable[T],
    *,
    drain: ShutdownGrace | None = None,
    request: Request[Any, Any, Any] | None = None,
) -> T:
    """The result of `work`, which is cancelled when the grace of `drain` ends, or the client of
    `request` hangs up: Litestar does neither.

    Raises:
        ServerShutdownError: the grace ended first.
        ClientDisconnectedError: the client has gone.
    """
    timeout = asyncio.timeout(None) if drain is None else drain.timeout()
    try:
        async with timeout:
            stop_watching = _end_when_gone(request, timeout)
            try:
                return await work
            finally:
                stop_watching()
    except TimeoutError:
        if not timeout.expired():
            raise
        raise ClientDisconnectedError if timeout.when() == _GONE else ServerShutdownError from None
    finally:
        if drain is not None:
            drain.let_go(timeout)


def _end_when_gone(
    request: Request[Any, Any, Any] | None, timeout: asyncio.Timeout
) -> Callable[[], object]:
    """Have `timeout` end when the client goes; what comes back ends the watch."""
    if request is None:
        return _nothing
    wire = _wire_of(request)
    if wire is None:
        return asyncio.create_task(_listen(request, timeout)).cancel
    wire.when_gone(lambda: _end_at(timeout, _GONE))
    return lambda: wire.when_gone(None)


def _nothing() -> None:
    pass


async def _listen(request: Request[Any, Any, Any], work: asyncio.Timeout) -> None:
    """Only after the body has been read: it takes the connection's messages."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    _end_at(work, _GONE)


def _end_at(timeout: asyncio.Timeout, when: float) -> None:
    """Unless it ends already, which nothing changes."""
    if timeout.when() != _GONE and not timeout.expired():
        timeout.reschedule(when)


async def stream(
    request: Request[Any, Any, Any],
    events: AsyncGenerator[T],
    renderer: Renderer[T],
    drain: ShutdownGrace,
    keepalive: float,
    framing: Framing = SSE,
    texts: Texts | None = None,
) -> "Streamed":
    """`events` in frames, and the `texts` that take a shortcut, once the first of them is there.

    A comment, where there are any, is sent whenever nothing else was for `keepalive` seconds.

    Raises:
        BackendError: it failed before `Started`: the answer can still have a status of its own.
        ClientDisconnectedError, ServerShutdownError: as `limited`.
    """
    buffer = SendBuffer(keepalive if framing.has_comments else None)
    if texts is not None:
        texts.shortcut.take = _taker(texts, buffer, framing)
    answer = asyncio.create_task(_answer(events, renderer, drain, buffer, framing.encode))
    try:
        await limited(buffer.begun(), request=request)
    except BaseException:
        await _end(answer)
        raise
    return Streamed(request, answer, buffer, framing)


class Streamed(ASGIResponse):
    """What an answer's task puts into `outbox`, on its way to the client.

    Litestar's own has a task group for each, with a task that listens and one that sends.
    """

    def __init__(
        self,
        request: Request[Any, Any, Any],
        answer: asyncio.Task[None],
        buffer: SendBuffer,
        framing: Framing,
    ) -> None:
        self._request = request
        self._answer = answer
        self._outbox = buffer
        self._headers = [(b"content-type", framing.content_type), (b"cache-control", b"no-cache")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await limited(self._send(send), request=self._request)
        except ClientDisconnectedError:
            return  # Nobody is left to be told anything.
        finally:
            await _end(self._answer)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        if (wire := _wire_of(self._request)) is not None:
            await self._outbox.pour(wire)
        while body := await self._outbox.take():
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await self._answer  # If its last words failed, the connection is cut: no end is feigned.
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _answer(
    events: AsyncGenerator[T],
    renderer: Renderer[T],
    drain: ShutdownGrace,
    buffer: SendBuffer,
    encode: Callable[[Frame], bytes],
) -> None:
    """In a task of its own, from the first event to the last, whoever reads how fast."""
    try:
        await limited(_put_all(events, renderer, buffer, encode), drain=drain)
    except Exception as exc:
        if buffer.fail(exc):
            return
        for frame in renderer.error(exc):
            buffer.put(encode(frame))
    finally:
        buffer.end()


async def _put_all(
    events: AsyncGenerator[T],
    renderer: Renderer[T],
    buffer: SendBuffer,
    encode: Callable[[Frame], bytes],
) -> None:
    async with closing(events):
        async for event in events:
            for frame in renderer.render(event):
                buffer.put(encode(frame))
            if buffer.is_full:
                await buffer.room()


def _taker(texts: Texts, buffer: SendBuffer, framing: Framing) -> Callable[[str], bool]:
    """Puts a text into `outbox` without a turn of the answer's task, as long as it has room."""
    before, after = around_text(lambda text: framing.encode(texts.frame(text)))
    put, encode = buffer.put, msgspec.json.Encoder().encode

    def take(text: str) -> bool:
        if buffer.is_full:
            return False
        put(before + encode(text) + after)
        return True

    return take


def _wire_of(request: Request[Any, Any, Any]) -> Wire | None:
    extensions = cast(dict[str, Any], request.scope.get("extensions") or {})  # pyright: ignore[reportUnknownMemberType]
    return extensions.get(WIRE)


async def _end(task: asyncio.Task[None]) -> None:
    """Stop it, even in a task that is being cancelled itself."""
    if task.done():
        return
    task.cancel()
    with move_on_after(CLOSING, shield=True):
        await asyncio.wait((task,))
