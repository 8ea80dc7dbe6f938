"""Events -> server-sent events, and what ends them early. The only place that writes `data: `."""

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

from adapters.events import Event
from proxy.answers import CLOSING, close, closing
from proxy.errors import ClientDisconnectedError, ServerShutdownError

T = TypeVar("T")

_KEEPALIVE = b": keepalive\n\n"
"""A comment: clients skip it, and see that somebody is still there."""


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
        with move_on_after(CLOSING, shield=True):
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
    keepalive: float,
) -> Stream:
    """`events` as server-sent events, once the first of them is there.

    A comment is sent whenever nothing else was for `keepalive` seconds.

    Raises:
        BackendError: it failed before `Started`: the answer can still have a status of its own.
        ClientDisconnectedError, ServerShutdownError: as `unless_gone` and `Drain.limit`.
    """
    started = await unless_gone(request, drain.limit(anext(events)))
    return Stream(
        _frames(started, events, renderer, drain, keepalive),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache"},
        # For a client that goes before the first frame was asked for, or while one is sent.
        background=BackgroundTask(close, events),
    )


async def _frames(
    started: Event,
    events: AsyncGenerator[Event],
    renderer: Renderer,
    drain: Drain,
    keepalive: float,
) -> AsyncGenerator[bytes]:
    event: Event | None = started
    async with closing(events):
        try:
            while event is not None:
                for frame in renderer.render(event):
                    yield encode_frame(frame)
                async with _kept(drain.limit(anext(events, None))) as coming:
                    while not (await asyncio.wait((coming,), timeout=keepalive))[0]:
                        yield _KEEPALIVE
                    event = coming.result()
        except Exception as exc:
            for frame in renderer.error(exc):
                yield encode_frame(frame)


@asynccontextmanager
async def _kept(work: Coroutine[Any, Any, T]) -> AsyncGenerator[asyncio.Task[T]]:
    """`work` as a task that outlives waits for it, so that no event is lost, and not the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
            with move_on_after(CLOSING, shield=True):
                await asyncio.wait((task,))
