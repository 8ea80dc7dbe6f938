"""Several answers to one request, side by side, as one stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import anyio
import msgspec

from adapters.errors import BackendError
from adapters.events import Event, Started
from adapters.request import GenerationRequest

_HELD = 64
"""Events that wait for a slow reader; then the answers wait, and Ollama with them."""
_CLOSING_SECONDS = 2.0

Generate = Callable[[GenerationRequest], AsyncGenerator[Event]]


def each_choice(request: GenerationRequest) -> list[GenerationRequest]:
    """One request for each answer; of a seed, each has its own."""
    return [_choice(request, at) for at in range(request.n)]


def _choice(request: GenerationRequest, at: int) -> GenerationRequest:
    sampling = request.sampling
    if sampling.seed is not None:
        sampling = msgspec.structs.replace(sampling, seed=sampling.seed + at)
    # The shortcut does not tell one answer from another.
    return msgspec.structs.replace(request, n=1, sampling=sampling, shortcut=None)


class Choices:
    """Tasks that read the answers, and the queue in which their events meet.

    No task group: the one who reads may go on in another task than it began in.
    """

    def __init__(
        self,
        request: GenerationRequest,
        generate: Generate,
        first: float,
        later: float,
        overdue: Callable[[], BackendError],
    ) -> None:
        """Seconds in which at least one of the answers must begin, and then say something more;
        and what it is, if none does.

        Of a single one nothing can be asked: Ollama may take them one after the other.
        """
        self._sources = [generate(each) for each in each_choice(request)]
        self._queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(_HELD)
        self._seconds, self._later = first, later
        self._overdue = overdue
        self._tasks: list[asyncio.Task[None]] = []

    async def events(self) -> AsyncGenerator[Event]:
        """`Started` once; the first failure of any of them ends all."""
        running, started = len(self._sources), False
        self._tasks = [
            asyncio.create_task(self._read(at, source)) for at, source in enumerate(self._sources)
        ]
        try:
            while running:
                event = await self._next()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    running -= 1
                elif not (started and isinstance(event, Started)):
                    started, self._seconds = True, self._later
                    yield event
        finally:
            await self._close()

    async def _next(self) -> Event | Exception | None:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._queue.get()
        except TimeoutError:
            raise self._overdue() from None

    async def _read(self, at: int, events: AsyncGenerator[Event]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await self._queue.put(_stamped(event, at))
            await self._queue.put(None)
        except Exception as error:
            await self._queue.put(error)  # Raised where the events are read.

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        # Shielded: a scope that is cancelled lets nothing else be awaited, and the sockets are
        # closed in the tasks.
        with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
            await asyncio.wait(self._tasks)


def _stamped(event: Event, choice: int) -> Event:
    return event if isinstance(event, Started) else msgspec.structs.replace(event, choice=choice)
