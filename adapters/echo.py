"""A backend without a model: it says what it is told, and keeps the contract to the letter.

It serves as the reference for backends to come and as the engine of the server's own tests.
"""

import asyncio
import re
from collections.abc import AsyncGenerator

from adapters.backend import Health, Model, refuse_unsupported
from adapters.config import EchoConfig
from adapters.errors import InvalidRequestError, ModelNotFoundError
from adapters.events import Event, Finished, FinishReason, Started, TextDelta, Usage
from adapters.request import Feature, GenerationRequest

_PIECE = re.compile(r"\s*\S+|\s+")


class EchoBackend:
    kind = "echo"
    honours: frozenset[Feature] = frozenset({"prompt", "max_tokens", "stop"})

    def __init__(self, config: EchoConfig) -> None:
        self._config = config
        self._counters = {"active": 0, "finished": 0, "cancelled": 0}

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        refuse_unsupported(request, self.honours, self.kind)
        self._require(request.model)
        reply = self._config.reply if self._config.reply is not None else _last_text(request)
        self._counters["active"] += 1
        outcome = "cancelled"
        try:
            yield Started()
            async for event in self._say(reply, request):
                yield event
            outcome = "finished"
        finally:
            self._counters["active"] -= 1
            self._counters[outcome] += 1

    async def _say(self, reply: str, request: GenerationRequest) -> AsyncGenerator[Event]:
        text, stopped_by = _until_stop(reply, request.stop)
        pieces = _PIECE.findall(text)
        shown = pieces if request.max_tokens is None else pieces[: request.max_tokens]
        for piece in shown:
            await asyncio.sleep(self._config.delay)
            yield TextDelta(piece)
        reason: FinishReason = "stop" if len(shown) == len(pieces) else "length"
        usage = Usage(prompt_tokens=_count(request), completion_tokens=len(shown))
        yield Finished(reason, usage, stopped_by if reason == "stop" else None)

    async def list_models(self) -> list[Model]:
        return [
            Model(name=name, capabilities=frozenset({"chat"}), loaded=True)
            for name in self._config.models
        ]

    async def load(self, model: str) -> None:
        self._require(model)

    async def unload(self, model: str) -> None:
        self._require(model)

    async def health(self) -> Health:
        return Health(ok=True, counters=dict(self._counters))

    async def aclose(self) -> None:
        return None

    def _require(self, model: str) -> None:
        if model not in self._config.models:
            raise ModelNotFoundError(f"The echo backend has no model '{model}'.", param="model")


def _last_text(request: GenerationRequest) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    if not request.prompt:
        raise InvalidRequestError("There is no message to answer.", param="messages")
    return request.prompt[-1].text


def _count(request: GenerationRequest) -> int:
    if isinstance(request.prompt, str):
        return len(_PIECE.findall(request.prompt))
    return sum(len(_PIECE.findall(message.text)) for message in request.prompt)


def _until_stop(text: str, stop: tuple[str, ...]) -> tuple[str, str | None]:
    """`text` up to the stop string that comes first, and that string."""
    found = [(text.find(word), word) for word in stop if word in text]
    if not found:
        return text, None
    at, word = min(found)
    return text[:at], word
