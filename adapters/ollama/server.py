"""One Ollama: what it has, what it is doing, and how a request is put to it."""

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from functools import partial
from typing import Any, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from adapters.backend import Health, Model, Progress
from adapters.config import OllamaConfig
from adapters.errors import (
    BackendBusyError,
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ContextLengthError,
    ModelNotFoundError,
)
from adapters.memory import Footprint, MemoryBudget
from adapters.ollama.catalog import Catalog, full_name
from adapters.ollama.client import OllamaClient
from adapters.ollama.context.num_ctx import ContextSizing, Size
from adapters.ollama.errors import SILENT
from adapters.ollama.in_flight import InFlight, InFlightRequest
from adapters.ollama.ndjson import Lines
from adapters.ollama.options import to_keep_alive
from adapters.ollama.translate.template import Template
from adapters.ollama.wire import (
    ChatBody,
    EmbedBody,
    Embedded,
    Generation,
    Line,
    LoadBody,
    Options,
    PullBody,
    PullLine,
    RawBody,
    Version,
)
from adapters.upstream.circuit_breaker import CircuitBreaker
from adapters.upstream.deadlines import PATIENT, Patience, unless_hanging

log = logging.getLogger("tandem")
T = TypeVar("T")

_HEALTH_SECONDS = 0.8
"""Less than a second: one that hangs must not hold up who asks how things are."""
_LOOK_SECONDS = 2.0
"""One that is very busy may take its time."""
_UNLOAD_SECONDS = 10.0
"""It only has to say that it will: others wait for the memory meanwhile."""
_PROBE_SECONDS = 60.0
_SAFE = (0, 17, 1)
"""Before it: holes by which a model file takes over the server."""


class OllamaServer:
    def __init__(self, address: str, config: OllamaConfig) -> None:
        self.address = address
        self._config = config
        self.client = OllamaClient(address, config)
        self.catalog = Catalog(self.client, config.refresh)
        self.breaker = CircuitBreaker(self._is_there, self._probe)
        self.work = InFlight(self.catalog.runner)
        self._sizing = ContextSizing(address, self.catalog, self.work, config)
        self._keep_alive_of = {full_name(n): s for n, s in config.keep_alive_of.items()}
        self._version: str | None = None

    @property
    def is_away(self) -> bool:
        """It was not there, the last time."""
        return self.breaker.is_open and self.breaker.absent

    @property
    def is_quick_to_fail(self) -> bool:
        """Of several models one may be broken: to try another costs nothing."""
        return self.breaker.is_open and not self.breaker.is_silent

    @property
    def is_local(self) -> bool:
        """It takes of this machine's memory."""
        return self._sizing.local

    def share_budget(self, room: MemoryBudget) -> None:
        self._sizing.room = room

    def is_answering(self, model: str) -> bool:
        """Somebody of ours; Ollama does not tell of others."""
        return self.work.of(model).requests > 0

    async def footprint(self, model: str) -> Footprint:
        """What `model` will take, with the context that a short request needs."""
        try:
            num_ctx = await self._sizing.loading(model)
            return (await self.catalog.facts(model)).footprint(num_ctx)
        except BackendError:
            return Footprint()

    async def template(self, model: str) -> Template:
        """As far as it is known."""
        try:
            return (await self.catalog.facts(model)).template
        except BackendError:
            return Template()

    async def _room_for(self, model: str, num_ctx: int | None) -> AbstractAsyncContextManager[None]:
        """To be held while Ollama loads `model` with that context, if it has to.

        Raises:
            InsufficientMemoryError: when it is entered: there is no room for it.
        """
        if not self.is_local or self._sizing.room.budget is None:
            return nullcontext()
        loaded = await self.catalog.loaded(model)
        if loaded is not None and num_ctx in (None, loaded.context_length):
            return nullcontext()
        if not self.has(model):  # Its size on disk is in the list only.
            await self.models()
        footprint = (await self.catalog.facts(model)).footprint(num_ctx)
        # What is loaded for another model of its file is its own.
        name = self.work.name_of(model) if loaded is None else loaded.name
        return self._sizing.room.hold(name, footprint)

    async def lines(
        self, path: str, body: ChatBody | RawBody, waiting: Patience = PATIENT
    ) -> Lines[Line]:
        """The answer to `body`, in a context of the right size; the first line is there.

        Raises:
            ContextLengthError: no context that the prompt fits into can be had.
            BackendError: as `OllamaClient.lines`.
        """
        use = InFlightRequest(self.work, body.model)
        try:
            return await self._sized(path, body, waiting, use)
        except BaseException as error:
            use.end()
            if isinstance(error, BackendError):
                self._learn(error)
            raise

    async def _sized(
        self, path: str, body: ChatBody | RawBody, waiting: Patience, use: InFlightRequest
    ) -> Lines[Line]:
        size = await self._sizing.size(body)
        try:
            return await self._sent(path, body, size, waiting, use)
        except ContextLengthError as error:
            size = self._sizing.grown(size, error, body.model)
        return await self._sent(path, body, size, waiting, use)

    async def _sent(
        self,
        path: str,
        body: ChatBody | RawBody,
        size: Size,
        waiting: Patience,
        use: InFlightRequest,
    ) -> Lines[Line]:
        """The first line tells the size, and whether it was loaded for."""
        options = replace(body.options, num_ctx=size.num_ctx)
        sent = replace(body, options=options, keep_alive=self._keep_alive(body))
        cold = self._is_cold(body.model, size.num_ctx)
        seconds = waiting.to_first_line(self._config.first_token_timeout, cold=cold)
        use.take(size.num_ctx)
        async with await self._room_for(body.model, size.num_ctx):
            use.wait(cold=cold)
            asked = self._in_turn(self.client.lines(path, sent, seconds))
            lines = await self._there(asked, waiting)
            use.begin()
        lines.at_end.append(partial(self._end, use, size, lines))
        first = lines.first
        first.num_ctx, first.cold = size.num_ctx, cold
        self._sizing.used(body.model, size)
        return lines

    def _end(self, use: InFlightRequest, size: Size, lines: Lines[Line]) -> None:
        """The answer has ended, however it did."""
        use.end()
        if lines.failure is not None:
            self._learn(lines.failure)
        elif lines.last is not None:
            self.breaker.succeeded()
            size.learn(lines.last.prompt_eval_count or 0)

    def _there(self, work: Coroutine[Any, Any, T], waiting: Patience) -> Coroutine[Any, Any, T]:
        """The result of `work`, unless somebody else could do it and the server hangs."""
        return unless_hanging(work, self._is_there) if waiting.elsewhere else work

    async def _in_turn(self, lines: Awaitable[Lines[Line]]) -> Lines[Line]:
        try:
            return await lines
        except BackendTimeoutError as error:
            if not self.work.answers:
                raise
            raise _busy() from error

    def overdue(self) -> BackendError:
        """What it is that whoever has waited for several answers at once got none. Nobody else
        tells the breaker: of a single one the time is not known to be up."""
        error = _busy() if self.work.answers else BackendTimeoutError(SILENT)
        self._learn(error)
        return error

    def _is_cold(self, model: str, num_ctx: int) -> bool:
        """It has to be loaded, or is being loaded: `/api/ps` tells of it from the beginning."""
        return self.work.of(model).loads > 0 or self.catalog.must_load(model, num_ctx)

    async def embed(self, body: EmbedBody, waiting: Patience = PATIENT) -> Embedded:
        """
        Raises:
            BackendError: as `OllamaClient.post`.
        """
        if body.keep_alive is UNSET:
            body = replace(body, keep_alive=self._default_keep_alive(body.model))
        seconds = self._config.first_token_timeout
        use = InFlightRequest(self.work, body.model)
        try:
            async with await self._room_for(body.model, None):
                made = self.client.post("/api/embed", body, Embedded, seconds)
                embedded = await self._there(made, waiting)
        except ContextLengthError as error:
            raise await self._with_length(error, body.model) from error
        except BackendError as error:
            self._learn(error)
            raise
        finally:
            use.end()
        self.breaker.succeeded()
        return embedded

    async def _with_length(self, error: ContextLengthError, model: str) -> ContextLengthError:
        """Ollama does not tell how long an input may be."""
        length = (await self.catalog.facts(model)).context_length
        if length is None:
            return error
        return ContextLengthError(f"An input is longer than the {length} tokens '{model}' reads.")

    async def models(self) -> list[Model]:
        """
        Raises:
            BackendError: it is not there, or makes no sense.
        """
        try:
            models = await self.catalog.models()
        except BackendError as error:
            self.breaker.failed(error)
            raise
        self.breaker.heard()
        if self._version is None:
            await self.health()
        return models

    def has(self, model: str) -> bool | None:
        """By the last list; `None` before the first."""
        return self.catalog.has(model)

    async def load(self, model: str, keep_alive: float | None) -> None:
        """Ollama itself lets calls that meet share one load."""
        num_ctx = await self._sizing.loading(model)
        body = LoadBody(
            model=model,
            keep_alive=UNSET if keep_alive is None else to_keep_alive(keep_alive),
            options=Options(num_ctx=num_ctx) if num_ctx else UNSET,
            shift=False,
        )
        if body.keep_alive is UNSET:
            body.keep_alive = self._default_keep_alive(model)
        async with await self._room_for(model, num_ctx):
            await self._post(body, self._config.first_token_timeout)

    async def unload(self, model: str) -> None:
        """Only answers of this backend count as busy: Ollama does not tell of others."""
        if self.is_answering(model):
            raise BackendBusyError(f"'{model}' is answering somebody.", param="model")
        await self._post(LoadBody(model=model, keep_alive=0), _UNLOAD_SECONDS)

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        async with aclosing(self.client.pulled(PullBody(model))) as lines:
            async for line in (line async for batch in lines for line in batch):
                if line.done:
                    self.catalog.forget()
                yield _to_progress(line)

    async def health(self) -> Health:
        try:
            version = await self.client.get("/api/version", Version, _HEALTH_SECONDS)
        except BackendError as error:
            return Health(ok=False, detail=error.message, breaker=self.breaker.state)
        self._note_version(version.version)
        failing = self.breaker.is_open
        return Health(
            ok=not failing,
            detail="Ollama failed several times." if failing else None,
            version=version.version,
            breaker=self.breaker.state,
        )

    async def aclose(self) -> None:
        await self.client.aclose()  # Whoever waits for an answer gets an error.
        await self.breaker.aclose()
        await self.catalog.aclose()

    async def _post(self, body: LoadBody, seconds: float) -> None:
        try:
            await self.client.post("/api/chat", body, Line, seconds)
        except BackendError as error:
            self._learn(error)
            raise
        self.catalog.forget()  # What is loaded has changed.

    def _learn(self, error: BackendError) -> None:
        self.breaker.failed(error)
        if isinstance(error, ModelNotFoundError):
            self.catalog.forget()

    def _keep_alive(self, body: Generation) -> float | UnsetType:
        if body.keep_alive is not UNSET:
            return body.keep_alive
        return self._default_keep_alive(body.model)

    def _default_keep_alive(self, model: str) -> float | UnsetType:
        seconds = self._keep_alive_of.get(full_name(model), self._config.keep_alive)
        return UNSET if seconds is None else to_keep_alive(seconds)

    def _note_version(self, version: str) -> None:
        if self._version is None and (number := _number(version)) and number < _SAFE:
            log.warning("Ollama %s at %s has known holes: update it.", version, self.address)
        self._version = version

    async def _is_there(self) -> bool:
        """It answers, whatever it says."""
        try:
            await self.client.get("/api/version", Version, _LOOK_SECONDS)
        except (BackendUnavailableError, BackendTimeoutError):
            return False
        except BackendError:
            return True
        return True

    async def _probe(self) -> None:
        """A token of a model that it has: a server may take connections and do nothing else."""
        await self.catalog.models()
        model = self.catalog.smallest()
        if model is None:
            return
        options = Options(num_predict=1, num_ctx=await self._sizing.loading(model) or UNSET)
        body = RawBody(model=model, prompt="1", options=options, stream=False)
        seconds = min(_PROBE_SECONDS, self._config.first_token_timeout)
        await self.client.post("/api/generate", body, Line, seconds)


def _busy() -> BackendBusyError:
    """It takes a few at a time, and one's turn has not come."""
    return BackendBusyError("Ollama is busy with other answers.")


def _to_progress(line: PullLine) -> Progress:
    completed = line.completed or 0 if line.total is not None else line.completed
    return Progress(status=line.status, completed=completed, total=line.total)


def _number(version: str) -> tuple[int, ...] | None:
    """`0.33.0-rc2` -> (0, 33, 0). One built from source says 0.0.0, and is not old."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    number = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
    return number if any(number) else None
