"""`/v1/responses` as a WebSocket: many answers on one connection.

A message `{"type": "response.create", ...}` has the fields of a POST; its answer is the events that
a POST streams, a message each. Messages with the same `stream_id` are answered in their order, and
others at the same time.

Source: https://platform.openai.com/docs/guides/websocket-mode
"""

import asyncio
from functools import partial
from typing import Annotated, Any, Literal, cast

import msgspec
from litestar import WebSocket, websocket
from litestar.exceptions import HTTPException, WebSocketDisconnect
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from proxy.endpoints.generate import Call, generate
from proxy.endpoints.openai.responses.compaction import renderer_of
from proxy.endpoints.openai.responses.connection_store import ConnectionStore, Remembered
from proxy.endpoints.openai.responses.database_store import store_of
from proxy.endpoints.openai.responses.dialect import RESPONSES, begin, prepare
from proxy.endpoints.openai.responses.items import JSON
from proxy.endpoints.openai.responses.stream import Frame, ResponseRenderer
from proxy.endpoints.openai.responses.turn import Turn
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import ClientDisconnectedError, Failure, RateLimitError, UnauthorizedError
from proxy.http.body import convert, decode, feed
from proxy.http.body_scan import BodyScan
from proxy.http.event_stream import Limits
from proxy.http.json_response import note_failure
from proxy.http.send_buffer import SendBuffer

_MAX_WAITING = 16
"""Answers of one connection that may be unfinished at the same time."""
_GOING_AWAY = 1001
"""The code of RFC 6455 for a server that shuts down."""
_encode = msgspec.json.Encoder().encode

StreamId = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.-]+$")]


class Envelope(Struct, kw_only=True):
    """Fields of a message beside those of a POST."""

    type: Literal["response.create"]
    stream_id: StreamId | None = None
    generate: bool | None = None
    """False: nothing is generated, and the input can be continued by its id."""


class ErrorPayload(Struct):
    type: str
    code: str
    message: str
    param: str | None
    headers: dict[str, str] | UnsetType = UNSET


class RequestError(Struct, kw_only=True, tag_field="type", tag="error"):
    """The answer to a message that fails before its first event."""

    status: int
    error: ErrorPayload
    stream_id: str | UnsetType = UNSET


@websocket("/v1/responses")
async def converse(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await _Session(socket).run()


class _Session:
    """One connection: a task reads, one sends, and each answer has its own."""

    def __init__(self, socket: WebSocket[Any, Any, Any]) -> None:
        self._socket = socket
        scope = cast(Any, {**socket.scope, "type": "http", "method": "POST"})
        self._request = ServerRequest(scope)
        """The request of the connection, which each answer has a copy of."""
        self._remembered = Remembered()
        self._outgoing = SendBuffer()
        self._answers: set[asyncio.Task[None]] = set()
        self._last: dict[str | None, asyncio.Task[None]] = {}
        """`stream_id` -> the answer that the next one waits for."""

    async def run(self) -> None:
        """Answer until the client disconnects, or the server ends and all answers have."""
        reader = asyncio.create_task(self._read())
        sender = asyncio.create_task(self._send())
        shutdown = asyncio.create_task(self._request.grace.beginning())
        try:
            await asyncio.wait((reader, sender, shutdown), return_when=asyncio.FIRST_COMPLETED)
            if shutdown.done() and not reader.done() and not sender.done():
                reader.cancel()
                await self._end(sender)
        finally:
            tasks = {reader, sender, shutdown, *self._answers}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, sender: asyncio.Task[None]) -> None:
        """Finish the answers in progress, which the server's grace limits, and close."""
        if self._answers:
            await asyncio.wait(self._answers)
        self._outgoing.end()
        await asyncio.wait((sender,))
        if not sender.exception():
            await self._socket.close(_GOING_AWAY, "The server is shutting down.")

    async def _read(self) -> None:
        while (message := await self._socket.receive())["type"] == "websocket.receive":
            text, data = message.get("text"), message.get("bytes")
            await self._take(text.encode() if text is not None else data or b"")
            await asyncio.sleep(0)  # A client may send thousands of short messages at once.
            await self._outgoing.drain()

    async def _send(self) -> None:
        try:
            while lines := await self._outgoing.take():
                for line in lines.splitlines():
                    text = line.decode()
                    await self._socket.send({"type": "websocket.send", "text": text, "bytes": None})
        except WebSocketDisconnect:
            return  # `_read` receives the end as well.

    async def _take(self, raw: bytes) -> None:
        """Begin the answer to a message, after those that it has to wait for."""
        request = self._request.detached()
        request.record.status, request.record.streamed = 200, True
        request.record.operation = RESPONSES.operation
        body: JSON = {}
        try:
            request.scope["state"]["admit"](request.record)
            scan = BodyScan(request.config.server.max_depth)
            await feed(scan, raw)
            raw = scan.end()
            body, envelope = await request.parse(raw, lambda raw: _split(decode(raw, object)))
            if len(self._answers) >= _MAX_WAITING:
                raise InvalidRequestError(
                    f"{_MAX_WAITING} answers of this connection have not ended: wait for one."
                )
        except (InvalidRequestError, UnauthorizedError, RateLimitError, HTTPException) as exc:
            self._refuse(request, exc, body.get("stream_id"))
            return
        before = self._last.get(envelope.stream_id)
        task = asyncio.create_task(self._answer(request, body, envelope, before, len(raw)))
        self._answers.add(task)
        self._last[envelope.stream_id] = task
        task.add_done_callback(partial(self._forget, envelope.stream_id))

    def _forget(self, stream_id: str | None, task: asyncio.Task[None]) -> None:
        self._answers.discard(task)
        if self._last.get(stream_id) is task:
            del self._last[stream_id]

    def _refuse(self, request: ServerRequest, exc: Exception, stream_id: object) -> None:
        failure = note_failure(exc, request.record)
        request.record.status = failure.status
        self._outgoing.put(_encode(_to_error(failure, stream_id)) + b"\n")
        request.record.close()

    async def _answer(
        self,
        request: ServerRequest,
        body: JSON,
        envelope: Envelope,
        before: asyncio.Task[None] | None,
        size: int,
    ) -> None:
        """`size`: bytes of the message."""
        renderer: ResponseRenderer | None = None
        try:
            if before is not None:
                await asyncio.wait((before,))
            call = await self._begin(request, body, size)
            frame = _framing(envelope.stream_id)
            renderer = renderer_of(call.body, request.record, self._outgoing.put, frame)
            if envelope.generate is False:
                renderer.warm_up()
                await call.body.store.settle()
                return
            async with Limits(request.grace, has_begun=partial(getattr, renderer, "has_begun")):
                await generate(request, RESPONSES, call, _Sink(renderer, self._outgoing))
        except asyncio.CancelledError:
            request.record.fail(ClientDisconnectedError(), "client_disconnected")
            raise
        except Exception as exc:
            self._remembered.forget(body.get("previous_response_id"))
            if renderer is None or not renderer.has_begun:
                self._refuse(request, exc, envelope.stream_id)
            else:
                self._outgoing.put(renderer.fail(note_failure(exc, request.record)))
        finally:
            request.record.close()

    async def _begin(self, request: ServerRequest, body: JSON, size: int) -> Call[Turn]:
        store = ConnectionStore(store_of(request), self._remembered)
        turn = await request.work(size, partial(begin, request, body, store))
        if turn.body.background:
            raise UnsupportedParameterError(
                "'background' is not supported over a WebSocket.", param="background"
            )
        return await prepare(request, turn)


class _Sink:
    """Joins the renderer of one answer with the buffer of the connection."""

    def __init__(self, renderer: ResponseRenderer, outgoing: SendBuffer) -> None:
        self.write = renderer.write
        self.drain = outgoing.drain


def _split(message: Any) -> tuple[JSON, Envelope]:
    """Split a message into the body of a POST and what it has beside it.

    Raises:
        InvalidRequestError: it is no `response.create`.
    """
    envelope = convert(message, Envelope)
    own = Envelope.__struct_fields__
    body = {key: value for key, value in message.items() if key not in own}
    return body | {"stream": True}, envelope  # All answers are streamed.


def _framing(stream_id: str | None) -> Frame:
    """Return what makes the JSON of an event a line, with its `stream_id`."""
    if stream_id is None:
        return lambda data, _: data + b"\n"
    ending = b',"stream_id":%b}\n' % _encode(stream_id)
    return lambda data, _: data[:-1] + ending


def _to_error(failure: Failure, stream_id: object) -> RequestError:
    payload = ErrorPayload(
        failure.type,
        failure.code or failure.type,
        failure.message,
        failure.param,
        failure.headers or UNSET,
    )
    lane = stream_id if isinstance(stream_id, str) else UNSET
    return RequestError(status=failure.status, error=payload, stream_id=lane)
