"""Sinks: a backend writes the events of an answer to one.

Events are written, not yielded: a generator costs a turn of its task and a resumption of each
generator around it for every token; a `write` is a call. As with asyncio's `StreamWriter`, a writer
that is faster than its reader awaits `drain`. Cancelling the task that writes stops the work.

Rejected: an async generator for each layer (35 to 48 calls a token), and a shortcut beside the
generators for plain text (a second way through every layer, which every new dialect had to open).
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from adapters.events import Event, PromptProgress, Started
from adapters.request import GenerationRequest

_WAITING_EVENTS = 64
"""Events that `events` buffers for a slow reader before the writer has to drain."""


class Sink(Protocol):
    """The writing end of one answer."""

    def write(self, event: Event, /) -> bool:
        """Take `event` at once, without waiting.

        Returns true when the reader is behind: the writer should `await drain()` before it writes
        more. A writer that cannot wait, or has a bounded answer, may continue.

        Raises:
            BadUpstreamError: the event breaks the order of `Backend.generate`.
        """
        ...

    async def drain(self) -> None:
        """Wait until the reader has caught up; returns at once if it has."""
        ...


class Generator(Protocol):
    """A backend, or the router in front of several."""

    def generate(self, request: GenerationRequest, sink: Sink) -> Coroutine[Any, Any, None]: ...


Write = Callable[[Sink], Awaitable[None]]
"""Writes one answer to a sink and returns at its end."""


async def events(source: Generator, request: GenerationRequest) -> AsyncGenerator[Event]:
    """Iterate over the events of one answer, for programs and tests; without `PromptProgress`,
    which is no part of it.

    Closing the iterator cancels the work and waits for its end.

    Raises:
        BackendError: as `Backend.generate`, after the events that came before it.
    """
    reader = _Reader()
    task = asyncio.create_task(source.generate(request, reader))
    task.add_done_callback(reader.end)
    try:
        while (event := await reader.next()) is not None:
            yield event
        await task
    finally:
        await _stop((task,))


class _Reader:
    """A sink that buffers events until `next` takes them."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._ended = False
        self._changed = asyncio.Event()
        self._emptied = asyncio.Event()

    def write(self, event: Event, /) -> bool:
        if not isinstance(event, PromptProgress):
            self._events.append(event)
        self._changed.set()
        return len(self._events) > _WAITING_EVENTS

    async def drain(self) -> None:
        if len(self._events) > _WAITING_EVENTS:
            self._emptied.clear()
            await self._emptied.wait()

    def end(self, _task: object) -> None:
        self._ended = True
        self._changed.set()

    async def next(self) -> Event | None:
        """Return the next event, or `None` after the last."""
        while not self._events:
            self._emptied.set()
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()


async def write_together(
    writers: Sequence[Write], sink: Sink, *, choices: int = 1, at_once: int | None = None
) -> None:
    """Run `writers` side by side; choice `c` of writer `w` becomes choice `w * choices + c`.

    `Started` is written once, by the first writer that starts. At most `at_once` run at a time. The
    first error cancels the others and is raised.
    """
    started = _FirstStart(sink)
    turn = asyncio.Semaphore(at_once or len(writers))

    async def run(at: int, write: Write) -> None:
        async with turn:
            await write(_ChoiceSink(started, at * choices))

    tasks = [asyncio.create_task(run(at, write)) for at, write in enumerate(writers)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in (task for task in tasks if task in done):
            task.result()
    finally:
        await _stop(tasks)


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel `tasks` and wait for their end. Of several failures only one was raised."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Marks it as retrieved.


class _FirstStart:
    """Passes on the first `Started` only."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._started = False
        self.drain = sink.drain

    def write(self, event: Event, /) -> bool:
        if isinstance(event, Started):
            if self._started:
                return False
            self._started = True
        return self._sink.write(event)


class _ChoiceSink:
    """Moves the choices of one writer behind those of the writers before it."""

    def __init__(self, sink: Sink, first: int) -> None:
        self._sink = sink
        self._first = first
        self.drain = sink.drain

    def write(self, event: Event, /) -> bool:
        if self._first and not isinstance(event, Started):
            event = replace(event, choice=event.choice + self._first)
        return self._sink.write(event)
