"""A backend without a model: it repeats the last message, or a configured reply.

The reference implementation of `adapters/backend.py`, and the engine of the server's own tests.
"""

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncGenerator

from adapters.backend import (
    Description,
    Embeddings,
    Health,
    Model,
    Progress,
    RunningModel,
    TokenCount,
    refuse_unsupported,
)
from adapters.config import EchoConfig
from adapters.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.events import Finished, FinishReason, Started, TextDelta, Usage
from adapters.memory import MemoryUser
from adapters.request import EmbeddingRequest, Feature, GenerationRequest, TokenIds
from adapters.sink import Sink

_PIECE = re.compile(r"\s*\S+|\s+")
_COMPONENTS = 8


class EchoBackend:
    kind = "echo"
    naming = EchoConfig.naming
    version: str | None = None
    memory_user: MemoryUser | None = None
    honours: frozenset[Feature] = frozenset({"embeddings", "prompt", "n", "max_tokens", "stop"})

    def __init__(self, config: EchoConfig) -> None:
        self._config = config
        self._counters = {"active": 0, "finished": 0, "cancelled": 0}

    def check(self, request: GenerationRequest) -> None:
        """Refuse nothing: its features do not conflict."""

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        refuse_unsupported(request, self.honours, self.kind)
        self._require(request.model)
        reply = self._config.reply if self._config.reply is not None else _last_text(request)
        self._counters["active"] += 1
        outcome = "cancelled"
        try:
            sink.write(Started())
            for choice in range(request.n):
                await self._answer(reply, request, choice, sink)
            outcome = "finished"
        finally:
            self._counters["active"] -= 1
            self._counters[outcome] += 1

    async def _answer(
        self, reply: str, request: GenerationRequest, choice: int, sink: Sink
    ) -> None:
        stops = [(reply.find(word), word) for word in request.stop if word in reply]
        end, stopped_by = min(stops, default=(len(reply), None))
        pieces = _PIECE.findall(reply[:end])
        shown = pieces if request.max_tokens is None else pieces[: request.max_tokens]
        for piece in shown:
            await asyncio.sleep(self._config.delay)
            if sink.write(TextDelta(piece, choice=choice)):
                await sink.drain()
        reason: FinishReason = "stop" if len(shown) == len(pieces) else "length"
        usage = Usage(prompt_tokens=_count(request), completion_tokens=len(shown))
        sink.write(Finished(reason, usage, stopped_by if reason == "stop" else None, choice))

    async def count_tokens(self, request: GenerationRequest) -> TokenCount:
        """Count words, which are the tokens of this backend."""
        refuse_unsupported(request, self.honours, self.kind)
        self._require(request.model)
        return TokenCount(_count(request), exact=True)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return a hash of each text as its vector: equal texts have equal vectors."""
        refuse_unsupported(request, self.honours, self.kind)
        self._require(request.model)
        texts = [text for text in request.inputs if isinstance(text, str)]
        if "" in texts or not texts:
            raise InvalidRequestError("An input is empty.", param="inputs")
        if request.dimensions is not None and request.dimensions > _COMPONENTS:
            raise InvalidRequestError(
                f"The vectors have {_COMPONENTS} components.", param="dimensions"
            )
        vectors = tuple(_vector(text, request.dimensions or _COMPONENTS) for text in texts)
        return Embeddings(vectors, sum(len(_PIECE.findall(text)) for text in texts))

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        self._require(model)
        yield Progress(status="success")

    async def list_models(self) -> list[Model]:
        return [
            Model(name=name, capabilities=frozenset({"chat"}), loaded=True)
            for name in self._config.models
        ]

    async def describe(self, model: str, *, verbose: bool = False) -> Description:
        self._require(model)
        return Description()

    async def list_running(self) -> list[RunningModel]:
        return [RunningModel(name=name) for name in self._config.models]

    async def delete(self, model: str) -> None:
        self._require(model)
        raise InvalidRequestError(
            f"'{model}' is part of the configuration and has no files.", param="model"
        )

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        self._require(model)

    def is_well(self, model: str) -> bool:
        return True

    def loading(self) -> dict[str, Progress]:
        return {}

    async def unload(self, model: str) -> None:
        self._require(model)

    async def health(self) -> Health:
        return Health(ok=True, counters=dict(self._counters))

    async def aclose(self) -> None:
        return None

    def _require(self, model: str) -> None:
        if model not in self._config.models:
            raise ModelNotFoundError(f"The echo backend has no model '{model}'.", param="model")


def _vector(text: str, components: int) -> tuple[float, ...]:
    values = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:components]]
    length = math.hypot(*values)
    return tuple(value / length for value in values)


def _last_text(request: GenerationRequest) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    if isinstance(request.prompt, TokenIds):
        raise UnsupportedParameterError("The echo backend takes no token ids.", param="tokens")
    if not request.prompt:
        raise InvalidRequestError("'messages' has no message to repeat.", param="messages")
    return request.prompt[-1].text


def _count(request: GenerationRequest) -> int:
    match request.prompt:
        case str(text):
            return len(_PIECE.findall(text))
        case TokenIds(ids=ids):
            return len(ids)
        case messages:
            return sum(len(_PIECE.findall(message.text)) for message in messages)
