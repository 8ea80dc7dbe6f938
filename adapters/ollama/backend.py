"""Ollama behind Tandem's contract, through its native API."""

import math
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from msgspec.structs import replace

from adapters.backend import Embeddings, Health, Model, Progress, refuse_unsupported
from adapters.config import OllamaConfig
from adapters.errors import BackendError
from adapters.events import Event
from adapters.features import OLLAMA
from adapters.ollama.choices import Choices
from adapters.ollama.counted import Counted
from adapters.ollama.errors import blame_input
from adapters.ollama.memory import OllamaMemory
from adapters.ollama.ndjson import Lines
from adapters.ollama.servers import OllamaServers
from adapters.ollama.translate.embeddings import Vector, to_bodies, to_vectors
from adapters.ollama.translate.request import refuse_unenforced, to_body
from adapters.ollama.translate.stream import to_events
from adapters.ollama.translate.template import depends_on_template, fitted
from adapters.ollama.translate.tool_choice import is_forced
from adapters.ollama.whole import to_whole
from adapters.ollama.wire import ChatBody, FillBody, Line, RawBody
from adapters.request import EmbeddingRequest, GenerationRequest
from adapters.upstream.deadlines import Patience

_PATHS: dict[type[ChatBody | RawBody], str] = {
    ChatBody: "/api/chat",
    RawBody: "/api/generate",
    FillBody: "/api/generate",
}


class OllamaBackend:
    kind = "ollama"
    naming = OllamaConfig.naming
    honours = OLLAMA

    def __init__(self, config: OllamaConfig) -> None:
        self._config = config
        self._hosts = OllamaServers(config)
        self.memory_user = OllamaMemory(self._hosts)
        self._loading: Counter[str] = Counter()
        self._counters = {"active": 0, "started": 0, "finished": 0, "cancelled": 0, "failed": 0}

    def check(self, request: GenerationRequest) -> None:
        refuse_unenforced(request)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """Always streamed from Ollama, so that closing the generator stops the work.

        Raises:
            BackendError: by the tables in `errors.py`.
            UnsupportedParameterError: what Ollama, or this model of it, cannot honour.
        """
        if request.n > 1:
            return self._answers(request)
        return self._answer(request, _to_waiting(request))

    async def _answers(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self._to_body(request)
        slowest = self._config.first_token_timeout
        cold = request.patience is not None and not await self._hosts.has_loaded(request.model)
        first = _to_waiting(request).to_first_line(slowest, cold=cold)
        overdue = partial(self._hosts.overdue, request.model)
        choices = Choices(request, self._answer_in_time, first, slowest, overdue)
        async with aclosing(choices.events()) as events:
            async for event in events:
                yield event

    def _answer(self, request: GenerationRequest, waiting: Patience) -> AsyncGenerator[Event]:
        if request.whole and self._hosts.are_several:
            return self._whole(request, waiting)
        counted = Counted(self._count)
        return to_events(request, partial(self._lines, request, waiting, counted), counted)

    async def _lines(
        self, request: GenerationRequest, waiting: Patience, counted: Counted
    ) -> Lines[Line]:
        body = await self._begun(request, counted)
        return await self._hosts.lines(_PATHS[type(body)], body, waiting)

    async def _whole(self, request: GenerationRequest, waiting: Patience) -> AsyncGenerator[Event]:
        with Counted(self._count) as counted:
            body = await self._begun(request, counted)
            asking = await self._hosts.asking(_PATHS[type(body)], body, waiting)
            async with aclosing(to_whole(request, asking)) as events:
                async for event in events:
                    yield event
            counted.finish()

    async def _begun(self, request: GenerationRequest, counted: Counted) -> ChatBody | RawBody:
        body = self._to_body(request)
        counted.begin()
        if is_forced(request) or depends_on_template(request):
            return await self._as_the_model_reads(request, body)
        return body

    def _to_body(self, request: GenerationRequest) -> ChatBody | RawBody:
        """What is refused here is refused before anything is asked, and is nobody's failure."""
        refuse_unsupported(request, self.honours, self.kind)
        return to_body(request)

    def _answer_in_time(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """One of several answers: whether they are in time is judged of all together."""
        return self._answer(request, replace(_to_waiting(request), seconds=math.inf))

    async def _as_the_model_reads(
        self, request: GenerationRequest, body: ChatBody | RawBody
    ) -> ChatBody | RawBody:
        """`body`, or another one that says the same where its template needs that."""
        shows_tools = await self._shows_tools(request)
        if depends_on_template(request):
            told = fitted(request, await self._hosts.template(request.model))
            return to_body(told, shows_tools)
        return body if shows_tools else to_body(request, shows_tools=False)

    async def _shows_tools(self, request: GenerationRequest) -> bool:
        """Whether the model's template shows tools; only a forced call needs to know."""
        if not is_forced(request) or not request.tools:
            return True
        return await self._hosts.shows_tools(request.model)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """By several calls, where there are many inputs.

        Raises:
            BackendError: by the tables in `errors.py`.
        """
        refuse_unsupported(request, self.honours, self.kind)
        vectors: list[Vector] = []
        tokens = 0
        with Counted(self._count) as counted:
            counted.begin()
            try:
                for body in list(to_bodies(request)):
                    embedded = await self._hosts.embed(body, Patience(elsewhere=request.elsewhere))
                    vectors += to_vectors(embedded, body)
                    tokens += embedded.prompt_eval_count
            except BackendError as error:
                blame_input(error)
                raise
            counted.finish()
        return Embeddings(tuple(vectors), tokens)

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        async with aclosing(self._hosts.pull(model)) as lines:
            async for progress in lines:
                yield progress

    async def list_models(self) -> list[Model]:
        return await self._hosts.models(fresh=True)

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        self._loading[model] += 1
        try:
            await self._hosts.load(model, keep_alive)
        finally:
            self._loading[model] -= 1

    def loading(self) -> dict[str, Progress]:
        """Ollama does not tell how far it is."""
        return {name: Progress(status="loading") for name in +self._loading}

    async def unload(self, model: str) -> None:
        await self._hosts.unload(model)

    def is_well(self, model: str) -> bool:
        return self._hosts.is_well(model)

    async def health(self) -> Health:
        health = await self._hosts.health()
        return replace(health, counters=health.counters | self._counters)

    def _count(self, **changes: int) -> None:
        """Of the requests that it has."""
        for name, change in changes.items():
            self._counters[name] += change

    async def aclose(self) -> None:
        await self._hosts.aclose()


def _to_waiting(request: GenerationRequest) -> Patience:
    return Patience(request.patience, elsewhere=request.patience is not None)
