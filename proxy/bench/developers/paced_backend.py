"""Backend without a model; its answers take a configured time."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from adapters.config import EchoConfig
from adapters.echo import EchoBackend
from adapters.events import Event, TextDelta
from adapters.request import GenerationRequest
from adapters.sink import Sink

MODEL = "m"
_REPLY = "one two three four five six seven eight"
_PIECES = len(_REPLY.split())

Sleep = Callable[[float], Awaitable[None]]


class Pace(Struct, frozen=True, kw_only=True):
    seconds: float
    """Duration of an answer to an empty prompt."""
    per_word: float = 0.0
    """Seconds that each word of the prompt adds."""

    def duration(self, request: GenerationRequest) -> float:
        messages = request.prompt if isinstance(request.prompt, tuple) else ()
        words = sum(len(message.text.split()) for message in messages)
        return self.seconds + self.per_word * words


class PacedBackend(EchoBackend):
    def __init__(self, kind: str, pace: Pace, sleep: Sleep) -> None:
        super().__init__(EchoConfig(models=(MODEL,), reply=_REPLY))
        self.kind = kind
        self.pace = pace
        self.noise = 1.0
        """Factor of the duration."""
        self._sleep = sleep

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        pause = self.pace.duration(request) * self.noise / _PIECES
        answer = _Events()
        await super().generate(request, answer)
        for event in answer.events:
            if isinstance(event, TextDelta):
                await self._sleep(pause)
            sink.write(event)


class _Events:
    """A sink that lists the events of an answer."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event, /) -> bool:
        self.events.append(event)
        return False

    async def drain(self) -> None:
        """Return at once: the list has no limit."""
