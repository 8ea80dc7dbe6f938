"""Events -> one answer or a stream of them. The only place that writes `data: `."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import msgspec
from anyio import move_on_after
from litestar import Request
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream
from msgspec import Struct

from adapters.errors import BadUpstreamError
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.request import ToolCall
from proxy.errors import ClientDisconnectedError, ServerShutdownError

T = TypeVar("T")

_CLOSING = 5.0
"""Seconds a backend has to stop its work once nobody wants it."""
_BREATH = 16
"""Events after which others get a turn, even if the source never waits."""


class Frame(Struct, frozen=True):
    """One server-sent event: a Struct to be encoded, or text as it is."""

    data: Struct | bytes
    event: str | None = None


def encode_frame(frame: Frame) -> bytes:
    data = frame.data if isinstance(frame.data, bytes) else msgspec.json.encode(frame.data)
    head = f"event: {frame.event}\n".encode() if frame.event else b""
    return b"%bdata: %b\n\n" % (head, data)


class Renderer(Protocol):
    """One answer's way from events to a dialect's frames."""

    def render(self, event: Event) -> Iterable[Frame]: ...

    def error(self, exc: Exception) -> Iterable[Frame]:
        """The last words of an answer that failed after it had begun."""
        ...


class Drain:
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
            timeout.reschedule(self._deadline)

    async def limit(self, work: Awaitable[T]) -> T:
        """The result of `work`.

        Raises:
            ServerShutdownError: the grace ended first; `work` is cancelled.
        """
        timeout = asyncio.timeout_at(self._deadline)
        try:
            async with timeout:
                self._waiting.add(timeout)
                return await work
        except TimeoutError:
            if timeout.expired():
                raise ServerShutdownError from None
            raise
        finally:
            self._waiting.discard(timeout)


class Answer(Struct):
    """All events of an answer in one piece."""

    finished: Finished
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...] | None


class _Pieces:
    """Gathers what `collect` returns."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, tuple[ToolCallStarted, list[str]]] = {}
        self._logprobs: list[TokenLogprob] | None = None
        self._finished: Finished | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                self._text.append(text)
                self._add_logprobs(logprobs)
            case ReasoningDelta(text=text):
                self._reasoning.append(text)
            case ToolCallStarted():
                self._calls[event.index] = (event, [])
            case ToolCallDelta():
                self._calls[event.index][1].append(event.arguments)
            case Finished():
                self._finished = event
            case Started():
                pass

    def _add_logprobs(self, logprobs: tuple[TokenLogprob, ...] | None) -> None:
        if logprobs is not None:
            self._logprobs = self._logprobs if self._logprobs is not None else []
            self._logprobs.extend(logprobs)

    def answer(self) -> Answer:
        if self._finished is None:
            raise BadUpstreamError("The backend gave no end to its answer.")
        return Answer(
            self._finished,
            "".join(self._text),
            "".join(self._reasoning),
            tuple(ToolCall(c.id, c.name, "".join(args)) for c, args in self._calls.values()),
            None if self._logprobs is None else tuple(self._logprobs),
        )


async def collect(events: AsyncGenerator[Event]) -> Answer:
    """All of `events`.

    Raises:
        BackendError: whatever the backend raised, before `Started` or after.
    """
    pieces = _Pieces()
    async with _closing(each(events)) as checked:
        async for event in checked:
            pieces.add(event)
    return pieces.answer()


async def each(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """`events`, held to the contract: `Started` first, `Finished` last, and turns for others.

    Raises:
        BadUpstreamError: the first or the last event is missing.
    """
    count, last = 0, None
    async with _closing(events):
        async for event in events:
            if (count == 0) != isinstance(event, Started) or isinstance(last, Finished):
                raise BadUpstreamError(f"The backend sent {type(event).__name__} out of order.")
            yield event
            count, last = count + 1, event
            if count % _BREATH == 0:
                await asyncio.sleep(0)
    if not isinstance(last, Finished):
        raise BadUpstreamError("The backend stopped in the middle of its answer.")


@asynccontextmanager
async def _closing(events: AsyncGenerator[Event]) -> AsyncGenerator[AsyncGenerator[Event]]:
    try:
        yield events
    finally:
        await close(events)


async def close(events: AsyncGenerator[Any]) -> None:
    """Stop the work behind `events`, even in a task that is being cancelled.

    Litestar cancels through anyio, which repeats itself at every await that is not shielded.
    """
    with move_on_after(_CLOSING, shield=True):
        await events.aclose()


async def unless_gone(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up: Litestar does not.

    Raises:
        ClientDisconnectedError: the client has gone.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnectedError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        with move_on_after(_CLOSING, shield=True):
            await asyncio.wait((task, gone))


async def _hung_up(request: Request[Any, Any, Any]) -> None:
    """Only after the body has been read: it takes the connection's messages."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream(
    request: Request[Any, Any, Any],
    events: AsyncGenerator[Event],
    renderer: Renderer,
    drain: Drain,
) -> Stream:
    """`events` as server-sent events, once the first of them is there.

    Raises:
        BackendError: it failed before `Started`: the answer can still have a status of its own.
        ClientDisconnectedError, ServerShutdownError: as `unless_gone` and `Drain.limit`.
    """
    checked = each(events)
    started = await unless_gone(request, drain.limit(anext(checked)))
    return Stream(
        _frames(started, checked, renderer, drain),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache"},
        # For a client that goes before the first frame was asked for, or while one is sent.
        background=BackgroundTask(close, checked),
    )


async def _frames(
    started: Event, checked: AsyncGenerator[Event], renderer: Renderer, drain: Drain
) -> AsyncGenerator[bytes]:
    event: Event | None = started
    async with _closing(checked):
        try:
            while event is not None:
                for frame in renderer.render(event):
                    yield encode_frame(frame)
                event = await drain.limit(anext(checked, None))
        except Exception as exc:
            for frame in renderer.error(exc):
                yield encode_frame(frame)
