"""Background responses: they outlast their request, and are polled, followed and cancelled.

Source: https://platform.openai.com/docs/guides/background
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import msgspec
from litestar import post
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import BackendError, InvalidRequestError
from adapters.events import Event, Started
from proxy.endpoints.generate import Call, Dialect, generate
from proxy.endpoints.openai.responses.database_store import KeptResponses, to_entry
from proxy.endpoints.openai.responses.events import Failed
from proxy.endpoints.openai.responses.response import Response, to_response
from proxy.endpoints.openai.responses.stream import DONE, ResponseRenderer
from proxy.endpoints.openai.responses.turn import Turn
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import (
    ClientDisconnectedError,
    Failure,
    StorageError,
    to_failure,
)
from proxy.http.event_stream import SSE, EventSink, Limits, Put, sse, stream
from proxy.http.json_response import JSONResponse
from proxy.openapi import Operation
from proxy.routing.requirements import to_requirements
from proxy.stored.entry import Entry
from proxy.stored.running import Running, to_frames
from proxy.stored.store import Store


def check_background(turn: Turn) -> None:
    """Refuse a background response that nothing could read later.

    Raises:
        InvalidRequestError: the answer is not stored.
    """
    if not turn.is_stored:
        reason = "'store' is false" if turn.store.keeps else "this server keeps no answers"
        raise InvalidRequestError(
            f"'background' needs a stored answer, and {reason}.", param="background"
        )


async def start_background(
    request: ServerRequest, dialect: Dialect[Turn], call: Call[Turn]
) -> ASGIResponse:
    """Store the response as queued, begin to write it, and answer with it or with its events.

    Raises:
        BackendError: no backend can answer it; nothing is stored.
        StorageError: it cannot be stored.
        RateLimitError: a limit of the request's key is reached.
        ExplainedHTTPError: 403: it unloads the model, and may not administer.
    """
    turn = call.body
    request.check_keep_alive(call.requests[0].keep_alive)
    await _require_backend(request, dialect, call)
    assert isinstance(turn.store, KeptResponses)  # noqa: S101 - `check_background` was passed
    with ExitStack() as work_in_hand:
        work_in_hand.enter_context(request.grant.limits.answer_in_progress())
        running = request.running.add(turn.client, turn.id, streams=call.stream)
        work_in_hand.callback(request.running.remove, turn.client, turn.id)
        work = request.detached()
        request.record.operation = None  # The work has a record of its own.
        kept = BackgroundResponses(work, request.stored(), turn.store.last_item, running)
        turn = replace(turn, store=kept, items=turn.completed_items)  # Their ids do not change.
        queued = to_response(turn, "queued")
        await kept.begin(turn, queued)
        renderer = ResponseRenderer(turn, work.record, running.put)
        renderer.queue(queued)
        call = replace(call, body=turn, finish=kept.settle, stream=True)
        writing = _write(work, dialect, call, kept, renderer, running, work_in_hand.pop_all())
        running.task = asyncio.create_task(writing)
    return await _follow(request, running, 0) if running.streams else JSONResponse(queued)


async def _require_backend(
    request: ServerRequest, dialect: Dialect[Turn], call: Call[Turn]
) -> None:
    """Refuse a response for which there is no model, or none with all that it requires.

    A missing model that auto_pull downloads takes minutes: the response fails later.
    """
    if request.config.server.auto_pull:
        return
    (prompt,) = call.requests
    try:
        model = request.forced(prompt.model, call.backend)
        await request.router.decide(model, to_requirements(prompt), prompt)
    except BackendError as exc:
        exc.param = dialect.to_param(exc.param, call.body)
        raise


class BackgroundResponses(KeptResponses):
    """The store of one background response: it is kept with its events, before its end is shown."""

    def __init__(
        self, request: ServerRequest, store: Store, last_item: int | None, running: Running
    ) -> None:
        super().__init__(request, store, last_item)
        self._running = running
        self._beginning: asyncio.Task[None] | None = None
        self._ended: tuple[Turn, Response] | None = None
        self.has_ended = False

    async def begin(self, turn: Turn, response: Response) -> None:
        """Store a response that has not ended.

        Raises:
            StorageError: the disk does not take it.
        """
        entry = to_entry(turn, response, turn.completed_items, self.last_item)
        await self._store.keep(entry, response.metadata)

    def note_begin(self, turn: Turn) -> None:
        """Store that the response is in progress."""
        self._beginning = asyncio.create_task(self._note_begin(turn))

    async def _note_begin(self, turn: Turn) -> None:
        with suppress(StorageError):  # The end of the response will meet and log the same.
            await self.begin(turn, to_response(turn, "in_progress"))

    def keep(
        self, turn: Turn, response: Response, send: Callable[[], object] | None = None
    ) -> None:
        self._running.hold()
        self._ended, self.has_ended = (turn, response), True
        if send is not None:
            send()

    async def settle(self) -> None:
        if self._beginning is not None:
            await asyncio.wait((self._beginning,))
        ended, self._ended = self._ended, None
        if ended is not None:
            events = self._running.events if self._running.streams else None
            self._writing = asyncio.create_task(self._keep(*ended, events))
        if self._writing is not None:  # Also where a cancellation has ended the first wait.
            await asyncio.shield(self._writing)
            self._running.release()


class _BackgroundSink:
    """Stores the response as in progress once it has begun."""

    def __init__(
        self, renderer: ResponseRenderer, running: Running, note_begin: Callable[[], None]
    ) -> None:
        self._write = renderer.write
        self.drain = running.drain
        self._note_begin = note_begin

    def write(self, event: Event, /) -> bool:
        if type(event) is Started:
            self._note_begin()
        return self._write(event)


async def _write(
    request: ServerRequest,
    dialect: Dialect[Turn],
    call: Call[Turn],
    kept: BackgroundResponses,
    renderer: ResponseRenderer,
    running: Running,
    work_in_hand: ExitStack,
) -> None:
    """Write all of a response, whether a client follows it or not; `work_in_hand` ends with it."""
    turn, record = call.body, request.record
    sink = _BackgroundSink(renderer, running, partial(kept.note_begin, turn))
    record.status = 200
    try:
        async with Limits(request.grace):
            await generate(request, dialect, call, sink, is_counted=True)
    except asyncio.CancelledError:
        record.fail(ClientDisconnectedError(), "cancelled")
        if not kept.has_ended:
            renderer.cancel()
    except Exception as exc:
        failure = to_failure(exc)
        record.fail(exc, failure.code or failure.type)
        if not kept.has_ended:
            running.put(renderer.error(failure))
    finally:
        await kept.settle()
        running.end()
        work_in_hand.close()
        record.close()


class _FrameRenderer:
    """Sends events that are encoded already. An answer that fails ends without its last event."""

    def __init__(self, put: Put) -> None:
        self.write = put

    def error(self, failure: Failure, /) -> bytes:
        return b""


async def resume(request: ServerRequest, key: str, after: int | None) -> ASGIResponse:
    """Send the events of a stored response that follow the sequence number `after`.

    Raises:
        NotStoredError: the caller has no such response.
        InvalidRequestError: it has no events.
    """
    start = 0 if after is None else after + 1
    running = request.running.get(request.caller(), key)
    entry = await request.stored().get("response", key, request.caller())
    if running is not None and running.streams:
        return await _follow(request, running, start)
    frames = _stored_frames(entry, start)

    async def write(sink: EventSink[bytes]) -> None:
        sink.write(b"".join(frames) + DONE)

    return await _stream(request, write)


def _stored_frames(entry: Entry, start: int) -> Sequence[bytes]:
    if entry.events is not None:
        return to_frames(entry.events)[start:]
    if entry.status == "failed":  # A killed server has lost the events.
        response = msgspec.json.decode(entry.object, type=Response)
        failed = Failed(sequence_number=start, response=response)
        return [sse(msgspec.json.encode(failed), "response.failed")]
    raise InvalidRequestError(
        "Only responses that were created with `background: true` and `stream: true` have events.",
        param="stream",
    )


async def _follow(request: ServerRequest, running: Running, start: int) -> ASGIResponse:
    """Send the events of a response in progress from number `start`, until it ends."""

    async def write(sink: EventSink[bytes]) -> None:
        sink.write(SSE.keepalive or b"")  # The head of the answer does not wait for an event.
        async for frames in running.frames(start):
            if sink.write(b"".join(frames)):
                await sink.drain()
        sink.write(DONE)

    return await _stream(request, write)


async def _stream(
    request: ServerRequest, write: Callable[[EventSink[bytes]], Awaitable[None]]
) -> ASGIResponse:
    """Stream without a grace of its own: the answer that is followed ends with it, and says so."""
    request.record.streamed = True
    keepalive = request.config.server.keepalive
    return await stream(
        request, write, _FrameRenderer, record=request.record, grace=None, keepalive=keepalive
    )


class _Background(Struct):
    """The object of a response, as far as its cancellation reads it."""

    background: bool = False


@post(
    "/v1/responses/{response_id:str}/cancel",
    status_code=200,
    operation=Operation(summary="Cancel a background response", answers=(Response,)),
)
async def cancel_response(response_id: FromPath[str], request: ServerRequest) -> JSONResponse:
    caller = request.caller()
    await request.running.cancel(caller, response_id)
    entry = await request.stored().get("response", response_id, caller)
    if not msgspec.json.decode(entry.object, type=_Background).background:
        raise InvalidRequestError(
            "Only responses that were created with `background: true` can be cancelled.",
            param="response_id",
        )
    if entry.status in ("queued", "in_progress"):
        raise InvalidRequestError(
            f"Response '{response_id}' runs in another server, which can cancel it.",
            param="response_id",
        )
    return JSONResponse(entry.object)
