"""Several answers to one request (`n` > 1), side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.events import Event
from adapters.request import GenerationRequest
from adapters.sink import Sink, write_together


def choice_requests(request: GenerationRequest) -> list[GenerationRequest]:
    """Return one request for each answer; a seed counts up."""
    seed = request.sampling.seed
    samplings = [
        request.sampling if seed is None else replace(request.sampling, seed=seed + at)
        for at in range(request.n)
    ]
    return [replace(request, n=1, sampling=sampling) for sampling in samplings]


async def write_choices(
    requests: Sequence[GenerationRequest],
    sink: Sink,
    write: Callable[[GenerationRequest, Sink], Awaitable[None]],
    seconds: tuple[float, float],
    overdue: Callable[[], BackendError],
) -> None:
    """Write the answers to `requests` as the choices of one.

    `seconds`: until the first event of any of them, and from one event to the next. No single
    answer has such a limit: Ollama may take them one after the other.

    Raises:
        BackendError: that of the first answer that fails, or that of `overdue`.
    """
    noted = _NotedSink(sink)
    writers = [partial(write, request) for request in requests]
    work = asyncio.create_task(write_together(writers, noted))
    try:
        while not work.done():
            left = noted.last + seconds[noted.has_begun] - noted.time()
            if left <= 0:
                raise overdue()
            await asyncio.wait((work,), timeout=left)
        work.result()
    finally:
        work.cancel()
        await asyncio.wait((work,))


class _NotedSink:
    """Notes when the last event was written."""

    def __init__(self, sink: Sink) -> None:
        self._write = sink.write
        self.drain = sink.drain
        self.time = asyncio.get_running_loop().time
        self.last = self.time()
        self.has_begun = False

    def write(self, event: Event, /) -> bool:
        self.last = self.time()
        self.has_begun = True
        return self._write(event)
