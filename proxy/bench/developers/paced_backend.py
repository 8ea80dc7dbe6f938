"""An engine without a model, whose answers take as long as they are told to."""

from collections.abc import AsyncGenerator, Awaitable, Callable

from msgspec import Struct

from adapters.config import EchoConfig
from adapters.echo import EchoBackend
from adapters.events import Event, TextDelta
from adapters.request import GenerationRequest
from proxy.sinks import closing

MODEL = "m"
_REPLY = "one two three four five six seven eight"
_PIECES = len(_REPLY.split())

Sleep = Callable[[float], Awaitable[None]]


class Pace(Struct, frozen=True, kw_only=True):
    seconds: float
    """That an answer takes, …"""
    per_word: float = 0.0
    """… and what each word of the prompt adds."""

    def of(self, request: GenerationRequest) -> float:
        messages = request.prompt if isinstance(request.prompt, tuple) else ()
        words = sum(len(message.text.split()) for message in messages)
        return self.seconds + self.per_word * words


class PacedBackend(EchoBackend):
    def __init__(self, kind: str, pace: Pace, sleep: Sleep) -> None:
        super().__init__(EchoConfig(models=(MODEL,), reply=_REPLY))
        self.kind = kind
        self.pace = pace
        self.noise = 1.0
        """What its pace is multiplied by."""
        self._sleep = sleep

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        pause = self.pace.of(request) * self.noise / _PIECES
        async with closing(events := super().generate(request)):
            async for event in events:
                if isinstance(event, TextDelta):
                    await self._sleep(pause)
                yield event
