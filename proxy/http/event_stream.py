"""Streamed answers: server-sent events or lines of JSON, and the limits that end them early.

The only place that writes `data: `. An answer is written in a task of its own, from its first event
to its last, and sent by the response's task; between them is a `SendBuffer`.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec
from anyio import move_on_after
from litestar import Request
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from proxy.errors import ClientDisconnectedError, Failure, ServerShutdownError
from proxy.http.json_response import note_failure
from proxy.http.send_buffer import WIRE, SendBuffer, Wire
from proxy.record import Record

_PLACEHOLDER = secrets.token_hex()
"""A text that no answer contains."""
_STOP_SECONDS = 5.0
"""Time for an answer's task to stop its work once it is cancelled."""
_DISCONNECTED = 0.0
"""Deadline of a timeout that ends because the client has disconnected; no grace ends so early."""

T_contra = TypeVar("T_contra", contravariant=True)


def sse(data: bytes, event: str | None = None) -> bytes:
    """Frame one server-sent event."""
    if event is None:
        return b"data: " + data + b"\n\n"
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


def json_line(data: bytes) -> bytes:
    """Frame one line of NDJSON."""
    return data + b"\n"


class Framing(Struct, frozen=True):
    media_type: str
    content_type: bytes
    """The media type as the header sends it."""
    keepalive: bytes | None
    """A comment that clients skip, sent in a long silence; `None` where the framing has none."""


SSE = Framing("text/event-stream", b"text/event-stream; charset=utf-8", b": keepalive\n\n")
NDJSON = Framing("application/x-ndjson", b"application/x-ndjson", None)
"""Ollama's framing: its clients take every line for JSON, so a comment would end them."""


Put = Callable[[bytes], bool]
"""Sends encoded bytes, or keeps them to be sent; true where the answer should wait."""


class Renderer(Protocol[T_contra]):
    """A sink that encodes one answer in a dialect, frames included.

    It sends what it encodes itself: a layer between the two would be a call for each token.
    """

    def write(self, event: T_contra, /) -> bool:
        """Encode and send `event`; nothing where the dialect has nothing for it."""
        ...

    def error(self, failure: Failure, /) -> bytes:
        """Encode the end of an answer that failed after it had begun."""
        ...


class EventSink(Protocol[T_contra]):
    """The writing end of a streamed answer; for `adapters.events.Event` an `adapters.sink.Sink`."""

    def write(self, event: T_contra, /) -> bool: ...

    async def drain(self) -> None: ...


class _StreamSink(Generic[T_contra]):
    """Joins a renderer with the send buffer that it fills."""

    def __init__(self, renderer: Renderer[T_contra], buffer: SendBuffer) -> None:
        self.write = renderer.write
        self.drain = buffer.drain


def around_text(encode: Callable[[str, int], bytes], choice: int) -> tuple[bytes, bytes]:
    """Return the bytes around the JSON of a text in the chunk that `encode` makes of it.

    In most chunks of a choice only the text differs.
    """
    before, _, after = encode(_PLACEHOLDER, choice).partition(msgspec.json.encode(_PLACEHOLDER))
    return before, after


class ShutdownGrace:
    """The end of the server: answers in progress have `grace` seconds left once it begins.

    Requests that still wait for their turn end at once: they would have to begin an answer that
    may not end.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._deadline: float | None = None
        self._timeouts: dict[asyncio.Timeout, Callable[[], bool]] = {}
        """Timeout -> whether its answer has begun."""
        self._beginning = asyncio.Event()

    @property
    def began(self) -> bool:
        return self._deadline is not None

    async def beginning(self) -> None:
        """Wait until the grace begins."""
        await self._beginning.wait()

    def begin(self) -> None:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._grace
        self._beginning.set()
        for timeout, has_begun in self._timeouts.items():
            _reschedule(timeout, self._deadline if has_begun() else _now())

    def cut(self) -> None:
        """End the grace, and with it all answers, now."""
        self._deadline = _now()
        for timeout in self._timeouts:
            _reschedule(timeout, self._deadline)

    def timeout(self, has_begun: Callable[[], bool]) -> asyncio.Timeout:
        """Create a timeout that ends with the grace, or with its beginning while `has_begun` is
        false; `release` takes it out."""
        ended = self.began and not has_begun()
        timeout = asyncio.timeout_at(_now() if ended else self._deadline)
        self._timeouts[timeout] = has_begun
        return timeout

    def release(self, timeout: asyncio.Timeout) -> None:
        del self._timeouts[timeout]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _always() -> bool:
    return True


class Limits:
    """Limits of work on an answer: it ends with the server's grace, or when the client disconnects.

    Litestar cancels no handler for either. Leaving it raises `ServerShutdownError` or
    `ClientDisconnectedError` where one of them has ended the work.
    """

    def __init__(
        self,
        grace: ShutdownGrace | None = None,
        request: Request[Any, Any, Any] | None = None,
        has_begun: Callable[[], bool] = _always,
    ) -> None:
        """`has_begun`: as in `ShutdownGrace.timeout`."""
        self._grace = grace
        self._request = request
        self._timeout = asyncio.timeout(None) if grace is None else grace.timeout(has_begun)
        self._unwatch: Callable[[], object] | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        if self._request is not None:
            self._unwatch = _watch(self._request, self._timeout)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._unwatch is not None:
            self._unwatch()
        try:
            await self._timeout.__aexit__(kind, exc, trace)
        except TimeoutError:
            disconnected = self._timeout.when() == _DISCONNECTED
            raise ClientDisconnectedError if disconnected else ServerShutdownError from None
        finally:
            if self._grace is not None:
                self._grace.release(self._timeout)


def _watch(request: Request[Any, Any, Any], timeout: asyncio.Timeout) -> Callable[[], object]:
    """End `timeout` when the client disconnects; returns what stops the watch."""
    wire = _wire_of(request)
    if wire is None:
        return asyncio.create_task(_listen(request, timeout)).cancel
    wire.when_disconnected(lambda: _reschedule(timeout, _DISCONNECTED))
    return lambda: wire.when_disconnected(None)


async def _listen(request: Request[Any, Any, Any], limit: asyncio.Timeout) -> None:
    """Wait for a disconnect, after the body was read: it takes the connection's messages."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    _reschedule(limit, _DISCONNECTED)


def _reschedule(timeout: asyncio.Timeout, when: float) -> None:
    """Move the deadline, unless the timeout has ended already."""
    if timeout.when() != _DISCONNECTED and not timeout.expired():
        timeout.reschedule(when)


async def stream(
    request: Request[Any, Any, Any],
    write: Callable[[EventSink[T_contra]], Awaitable[object]],
    renderer: Callable[[Put], Renderer[T_contra]],
    *,
    record: Record,
    grace: ShutdownGrace | None,
    keepalive: float,
    framing: Framing = SSE,
    settle: Callable[[], Awaitable[None]] | None = None,
) -> "StreamedResponse":
    """Begin an answer; returns once its first event was rendered.

    `grace`: `None` for an answer that ends with the server by itself.
    `write` writes all events to its sink; `renderer` creates the renderer that encodes them. A
    comment, if the framing has one, is sent after `keepalive` seconds without anything else.
    `settle` is awaited before the end of an answer that fails on its way, which may be stored too.

    Raises:
        BackendError: the answer failed before its first event: it can still have a status.
        ClientDisconnectedError, ServerShutdownError: as `Limits`.
    """
    buffer = SendBuffer(keepalive, framing.keepalive)
    renders = renderer(buffer.put)
    answer = asyncio.create_task(_write_answer(write, renders, buffer, grace, record, settle))
    try:
        async with Limits(request=request):
            await buffer.begun
    except BaseException:
        await _stop(answer)
        raise
    return StreamedResponse(request, answer, buffer, framing, record)


async def _write_answer(
    write: Callable[[EventSink[T_contra]], Awaitable[object]],
    renderer: Renderer[T_contra],
    buffer: SendBuffer,
    grace: ShutdownGrace | None,
    record: Record,
    settle: Callable[[], Awaitable[None]] | None,
) -> None:
    """Write all of an answer, independent of how fast the client reads."""
    try:
        async with Limits(grace, has_begun=record.has_begun):
            await write(_StreamSink(renderer, buffer))
    except Exception as exc:
        if buffer.fail(exc):
            return
        buffer.put(renderer.error(note_failure(exc, record)))
        if settle is not None:
            await settle()
    finally:
        buffer.end()


class StreamedResponse(ASGIResponse):
    """Sends what an answer's task puts into `buffer`.

    Litestar's own has a task group for each answer, with a task that listens and one that sends.
    """

    def __init__(
        self,
        request: Request[Any, Any, Any],
        answer: asyncio.Task[None],
        buffer: SendBuffer,
        framing: Framing,
        record: Record,
    ) -> None:
        self._request = request
        self._answer = answer
        self._buffer = buffer
        self._record = record
        self._headers = [(b"content-type", framing.content_type), (b"cache-control", b"no-cache")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with Limits(request=self._request):
                await self._send(send)
        except ClientDisconnectedError as exc:
            self._record.fail(exc, "client_disconnected")  # No response can reach the client.
        finally:
            await _stop(self._answer)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        if (wire := _wire_of(self._request)) is not None:
            await self._buffer.pour(wire)
        while body := await self._buffer.take():
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await (
            self._answer
        )  # If it failed at its end, the body stays incomplete: no success is feigned.
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _wire_of(request: Request[Any, Any, Any]) -> Wire | None:
    extensions = cast(dict[str, Any], request.scope.get("extensions") or {})  # pyright: ignore[reportUnknownMemberType]
    return extensions.get(WIRE)


async def _stop(task: asyncio.Task[None]) -> None:
    """Cancel `task` and wait for its end, even in a task that is being cancelled itself."""
    if task.done():
        return
    task.cancel()
    with move_on_after(_STOP_SECONDS, shield=True):
        await asyncio.wait((task,))
