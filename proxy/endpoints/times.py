"""When things happened in one answer: by this server's clock, or as its engine says."""

import time
from collections.abc import AsyncGenerator

from adapters.events import Event, Finished, Restarted, Started, Timings, Usage
from proxy.routing.measurements import to_speed
from proxy.sinks import closing


class Times:
    """From the moment it is made. All in seconds, and known once the answer has ended."""

    def __init__(self) -> None:
        self._asked = time.perf_counter()
        self._started: float | None = None
        self._first: float | None = None
        self._ended = self._asked

    async def watching(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """`events` as they are, looked at on their way. Of two attempts the second counts."""
        async with closing(events):
            async for event in events:
                self._see(event)
                yield event

    def _see(self, event: Event) -> None:
        match event:
            case Started() | Restarted():
                self._started, self._first = time.perf_counter(), None
            case Finished():
                self._ended = time.perf_counter()
            case _ if self._first is None:
                self._first = time.perf_counter()
            case _:
                pass

    @property
    def total(self) -> float:
        """Until the end."""
        return self._ended - self._asked

    @property
    def first(self) -> float:
        """Until the first piece of the answer."""
        return (self._ended if self._first is None else self._first) - self._asked

    def timings(self, finished: Finished) -> Timings:
        """The engine's own where it tells them: Ollama says that it has begun with its first word,
        when load and prompt are over and cannot be told apart."""
        return finished.timings or Timings(
            load=_nanoseconds(self._ready),
            prompt=_nanoseconds(self.first - self._ready),
            answer=_nanoseconds(self._answer),
        )

    def tokens_per_second(self, usage: Usage) -> float | None:
        """As `to_speed`."""
        return to_speed(usage.completion_tokens, self._answer)

    @property
    def _ready(self) -> float:
        """Until the model was ready for this request: loading it, and waiting for its turn."""
        return (self._ended if self._started is None else self._started) - self._asked

    @property
    def _answer(self) -> float:
        """From the first piece to the end."""
        return self.total - self.first


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
