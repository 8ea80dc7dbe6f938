"""Ollama behind Tandem's contract, through its native API."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from adapters.backend import Embeddings, Health, Model, Progress, refuse_unsupported
from adapters.config import OllamaConfig
from adapters.errors import BackendError
from adapters.events import Event, Finished, Started
from adapters.ollama.hosts import Hosts
from adapters.ollama.request import to_body
from adapters.ollama.response import Answer
from adapters.ollama.wire import ChatBody, Line, RawBody
from adapters.request import EmbeddingRequest, Feature, GenerationRequest

_PATHS: dict[type[ChatBody | RawBody], str] = {ChatBody: "/api/chat", RawBody: "/api/generate"}


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
        self._hosts = Hosts(config)
        self._counters = {"active": 0, "started": 0, "finished": 0, "cancelled": 0, "failed": 0}

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """Always streamed from Ollama, so that closing the generator stops the work.

        Raises:
            BackendError: by the tables in `errors.py`.
            UnsupportedParameterError: what Ollama, or this model of it, cannot honour.
        """
        refuse_unsupported(request, self.honours, self.kind)
        body = to_body(request)
        self._begin()
        outcome = "cancelled"
        try:
            async with aclosing(self._hosts.lines(_PATHS[type(body)], body)) as lines:
                async for event in _to_events(lines):
                    if isinstance(event, Finished):
                        outcome = "finished"
                    yield event
        except BackendError:
            outcome = "failed"
            raise
        finally:
            self._end(outcome)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        refuse_unsupported(request, self.honours, self.kind)
        raise NotImplementedError

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        async with aclosing(self._hosts.pull(model)) as lines:
            async for progress in lines:
                yield progress

    async def list_models(self) -> list[Model]:
        return await self._hosts.models()

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        await self._hosts.load(model, keep_alive)

    async def unload(self, model: str) -> None:
        await self._hosts.unload(model)

    async def health(self) -> Health:
        health = await self._hosts.health()
        return replace(health, counters=health.counters | self._counters)

    async def aclose(self) -> None:
        await self._hosts.aclose()

    def _begin(self) -> None:
        self._counters["active"] += 1
        self._counters["started"] += 1

    def _end(self, outcome: str) -> None:
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
            yield Started(line.num_ctx)
        for event in events:
            yield event
