"""Ollama behind Tandem's contract, through its native API."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.backend import Embeddings, Health, Model, Progress, refuse_unsupported
from adapters.config import OllamaConfig
from adapters.errors import (
    BackendBusyError,
    BackendError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.events import Event, Finished, Started
from adapters.ollama.catalog import Catalog
from adapters.ollama.client import OllamaClient
from adapters.ollama.request import to_body
from adapters.ollama.response import Answer
from adapters.ollama.wire import ChatBody, Line, LoadBody, RawBody, Version
from adapters.request import EmbeddingRequest, Feature, GenerationRequest

_PATHS: dict[type[ChatBody | RawBody], str] = {ChatBody: "/api/chat", RawBody: "/api/generate"}

_HEALTH_SECONDS = 0.8
"""Less than a second: one that hangs must not hold up who asks how things are."""


class OllamaBackend:
    kind = "ollama"
    # Not here, and so refused by name: logit_bias, tool_choice, parallel_tool_calls. Ollama
    # accepts and ignores all three.
    honours: frozenset[Feature] = frozenset(
        {
            "prompt",
            "images",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
            "num_ctx",
            "keep_alive",
            "options",
            "max_tokens",
            "stop",
            "tools",
            "response_format",
            "reasoning_effort",
            "logprobs",
        }
    )

    def __init__(self, config: OllamaConfig) -> None:
        self._config = config
        self._client = OllamaClient(config)
        self._catalog = Catalog(self._client, config.refresh)
        self._counters = {"active": 0, "started": 0, "finished": 0, "cancelled": 0, "failed": 0}
        self._answering: Counter[str] = Counter()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """Always streamed from Ollama, so that closing the generator stops the work.

        Raises:
            BackendError: by the tables in `errors.py`.
            UnsupportedParameterError: what Ollama, or this model of it, cannot honour.
        """
        refuse_unsupported(request, self.honours, self.kind)
        body = to_body(request)
        self._begin(request.model)
        outcome = "cancelled"
        try:
            async with aclosing(self._client.lines(_PATHS[type(body)], body)) as lines:
                async for event in _to_events(lines):
                    if isinstance(event, Finished):
                        outcome = "finished"
                    yield event
        except BackendError as error:
            outcome = "failed"
            self._learn(error)
            raise
        finally:
            self._end(request.model, outcome)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        refuse_unsupported(request, self.honours, self.kind)
        raise NotImplementedError

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        raise UnsupportedParameterError("Models cannot be fetched yet.", param="model")
        yield

    async def list_models(self) -> list[Model]:
        return await self._catalog.models()

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        """Ollama itself lets calls that meet share one load."""
        await self._post(LoadBody(model=model))

    async def unload(self, model: str) -> None:
        """Only answers of this backend count as busy: Ollama does not tell of others."""
        if self._answering[model]:
            raise BackendBusyError(f"'{model}' is answering somebody.", param="model")
        await self._post(LoadBody(model=model, keep_alive=0))

    async def health(self) -> Health:
        counters = dict(self._counters)
        try:
            version = await self._client.get("/api/version", Version, _HEALTH_SECONDS)
        except BackendError as error:
            return Health(ok=False, detail=error.message, counters=counters)
        return Health(ok=True, version=version.version, counters=counters)

    async def aclose(self) -> None:
        await self._client.aclose()  # Whoever waits for an answer gets an error.
        await self._catalog.aclose()

    async def _post(self, body: LoadBody) -> None:
        try:
            seconds = self._config.first_token_timeout
            await self._client.post("/api/chat", body, Line, seconds)
        except BackendError as error:
            self._learn(error)
            raise
        self._catalog.forget()  # What is loaded has changed.

    def _learn(self, error: BackendError) -> None:
        if isinstance(error, ModelNotFoundError):
            self._catalog.forget()

    def _begin(self, model: str) -> None:
        self._answering[model] += 1
        self._counters["active"] += 1
        self._counters["started"] += 1

    def _end(self, model: str, outcome: str) -> None:
        self._answering[model] -= 1
        if not self._answering[model]:
            del self._answering[model]
        self._counters["active"] -= 1
        self._counters[outcome] += 1


async def _to_events(lines: AsyncGenerator[Line]) -> AsyncGenerator[Event]:
    """`Started` waits for the first line: until then Ollama may still refuse."""
    answer = Answer()
    started = False
    async for line in lines:
        events = list(answer.events(line))
        if not started:
            started = True
            yield Started()
        for event in events:
            yield event
