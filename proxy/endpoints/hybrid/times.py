"""When things happened in one answer, by this server's clock."""

import time
from collections.abc import AsyncGenerator

from adapters.events import Event, Finished, Started, Usage
from proxy.answers import closing


class Times:
    """From the moment it is made. All in seconds, and known once the answer has ended."""

    def __init__(self) -> None:
        self._asked = time.perf_counter()
        self._started: float | None = None
        self._first: float | None = None
        self._ended = self._asked

    async def watching(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """`events` as they are, looked at on their way."""
        async with closing(events):
            async for event in events:
                self._see(event)
                yield event

    def _see(self, event: Event) -> None:
        match event:
            case Started():
                self._started = time.perf_counter()
            case Finished():
                self._ended = time.perf_counter()
            case _ if self._first is None:
                self._first = time.perf_counter()
            case _:
                pass

    @property
    def total(self) -> float:
        return self._ended - self._asked

    @property
    def load(self) -> float:
        """Until the model was ready for this request: loading it, and waiting for its turn."""
        return (self._ended if self._started is None else self._started) - self._asked

    @property
    def first(self) -> float:
        """Until the first piece of the answer."""
        return (self._ended if self._first is None else self._first) - self._asked

    @property
    def answer(self) -> float:
        """From the first piece to the end."""
        return self.total - self.first

    def tokens_per_second(self, usage: Usage) -> float | None:
        """`None` where the answer came in one piece. The first token's time is the prompt's."""
        following = usage.completion_tokens - 1
        return following / self.answer if following > 0 and self.answer > 0 else None
