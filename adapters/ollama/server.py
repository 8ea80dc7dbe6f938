"""One Ollama: its models, the requests in progress, and how a request is sent to it."""

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, TypeVar

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from adapters.backend import Health, Model, Progress
from adapters.chat_template import Rewrite
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
from adapters.ollama.context.kv_size import longest
from adapters.ollama.context.num_ctx import ContextSizing, Size
from adapters.ollama.context.token_estimate import Count
from adapters.ollama.errors import (
    MODEL_FAULTS,
    SILENT,
    LostAnswerError,
    UnexplainedError,
    UnwantedThoughtError,
)
from adapters.ollama.in_flight import InFlight, InFlightRequest
from adapters.ollama.keep_alive import KeepAlive
from adapters.ollama.ndjson import LineStream
from adapters.ollama.options import to_keep_alive
from adapters.ollama.rendered.answer import RenderedAnswer, Take
from adapters.ollama.rendered.plan import RenderedPlan, free_plan
from adapters.ollama.rendered.renderer import Renderer
from adapters.ollama.translate.stream import AnswerWriter
from adapters.ollama.translate.template import Template
from adapters.ollama.wire import (
    ChatBody,
    EmbedBody,
    Embedded,
    Line,
    LoadBody,
    Options,
    PullBody,
    PullLine,
    RawBody,
    Rendering,
    Tags,
    Version,
)
from adapters.upstream.behind import CIRCLE
from adapters.upstream.circuit_breaker import CircuitBreaker
from adapters.upstream.deadlines import AS_CONFIGURED, Deadline, unless_hanging
from adapters.upstream.limits import DEFAULT_LIMITS, Limits

log = logging.getLogger("tandem")
T = TypeVar("T")

_PROBE_SECONDS = 60.0
_SAFE = (0, 17, 1)
"""Earlier versions let a model file take over the server."""
_HANGING = "Ollama does not respond to /api/version."


class Call(Struct, frozen=True):
    """One request to Ollama, and what writes its answer."""

    body: ChatBody | RawBody
    writer: AnswerWriter
    deadline: Deadline = AS_CONFIGURED
    plan: RenderedPlan | None = None
    """Plan of an answer from a rendered prompt; `None`: `body` is sent as it is."""


class Shown(Struct, frozen=True):
    """The parts of a conversation that a template shows, and the rewritings that it needs."""

    rewrites: frozenset[Rewrite] = frozenset()
    tools: bool = True
    """False if it leaves out the tools of a request."""
    cold: bool = False
    """The model had to be loaded to find that out."""


class OllamaServer:
    def __init__(self, address: str, config: OllamaConfig, limits: Limits = DEFAULT_LIMITS) -> None:
        self.address = address
        self._config = config
        self._limits = limits
        self.client = OllamaClient(address, config, limits)
        self.catalog = Catalog(self.client, config.refresh, limits)
        self.breaker = CircuitBreaker(self._is_there, self._probe, limits, MODEL_FAULTS)
        self.work = InFlight(self.catalog.runner)
        self._sizing = ContextSizing(address, self.catalog, self.work, config)
        self._keep_alive = KeepAlive(config)
        self._version: str | None = None
        self._renderer = Renderer(self.catalog)

    @property
    def is_away(self) -> bool:
        """True where the last request to it found no server."""
        return self.breaker.is_open and self.breaker.absent

    @property
    def is_local(self) -> bool:
        """True for a server that uses this machine's memory."""
        return self._sizing.local

    def share_budget(self, budget: MemoryBudget) -> None:
        self._sizing.memory = budget

    def is_answering(self, model: str) -> bool:
        """True where a request of this backend is in progress; Ollama does not report others."""
        return self.work.of(model).requests > 0

    async def footprint(self, model: str) -> Footprint:
        """Estimate the memory of `model` with the context of a short request."""
        try:
            num_ctx = await self._sizing.loading(model)
            return (await self.catalog.facts(model)).footprint(num_ctx)
        except BackendError:
            return Footprint()

    async def template(self, model: str) -> Template:
        """Return what is known of the template of `model`."""
        try:
            return (await self.catalog.facts(model)).template
        except BackendError:
            return Template()

    async def _reserve(self, model: str, num_ctx: int | None) -> AbstractAsyncContextManager[None]:
        """Return the memory reservation for a load of `model`, to be entered while it loads.

        Raises:
            InsufficientMemoryError: on entering, where the budget does not allow it.
        """
        if not self.is_local or self._sizing.memory.budget is None:
            return nullcontext()
        loaded = await self.catalog.loaded(model)
        if loaded is not None and num_ctx in (None, loaded.context_length):
            return nullcontext()
        if not self.has(model):  # Its size on disk is in the list only.
            await self.models()
        footprint = (await self.catalog.facts(model)).footprint(num_ctx)
        # What is loaded for another model of its file is its own.
        name = self.work.name_of(model) if loaded is None else loaded.name
        return self._sizing.memory.hold(name, footprint)

    async def generate(self, call: Call, deadline: Deadline) -> None:
        """Write the answer to `call`, in a context of the right size.

        Raises:
            ContextLengthError: the prompt is longer than any context it can get.
            BackendError: as `OllamaClient.open` and `AnswerWriter.write`.
        """
        with self.breaker.request(call.body.model):
            exchange, plan = _Exchange(self, call.body, deadline), call.plan
            try:
                plan = plan or await self._plan_of_thought(call.body, exchange)
                if plan is None:
                    await exchange.ask(call.body, call.writer.write)
                else:
                    answer = RenderedAnswer(plan, call.writer, self._renderer, exchange)
                    await answer.write(call.body)
            except UnwantedThoughtError:
                await self._write_without_thought(call, exchange)
            except (LostAnswerError, UnexplainedError) as error:
                if plan is not None or not await self._write_rest(call, exchange, error):
                    raise
            finally:
                exchange.request.end()

    async def shown(self, body: ChatBody | RawBody, deadline: Deadline) -> Shown:
        """Return the parts of conversations that the template shows of the model in `body`.

        Raises:
            BackendError: as `generate`.
        """
        exchange = _Exchange(self, body, deadline)
        try:
            plan = await self._renderer.plan(body.model, exchange.post)
        finally:
            exchange.request.end()
        if plan is None:
            return Shown(cold=exchange.request.cold)
        return Shown(plan.rewrites, plan.tools, exchange.request.cold)

    async def _plan_of_thought(
        self, body: ChatBody | RawBody, exchange: "_Exchange"
    ) -> RenderedPlan | None:
        """Return the plan of an answer with a thought that a parser would take for text; `None` for
        others, and with tools, of which only the parser reads calls."""
        if isinstance(body, RawBody) or body.think is False or body.tools is not UNSET:
            return None
        try:
            facts = await self.catalog.facts(body.model)
        except BackendError:  # The request itself has the same one.
            return None
        plan = free_plan(body) if facts.jinja and facts.thinks else None
        model = plan and await self._renderer.model(body.model, exchange.post)
        return None if model is None or model.reads_thoughts else plan

    async def _write_without_thought(self, call: Call, exchange: "_Exchange") -> None:
        """Write the answer after an empty thought; with its thought where that cannot be had."""
        plan = free_plan(call.body)
        if plan is not None:
            answer = RenderedAnswer(plan, call.writer, self._renderer, exchange)
            if await answer.write_after_empty_thought():
                return
        call.writer.excludes_thoughts = False
        await exchange.ask(call.body, call.writer.write)

    async def _write_rest(self, call: Call, exchange: "_Exchange", error: BackendError) -> bool:
        """Write the rest of an answer that a parser has lost; false where it cannot be had."""
        plan, written = free_plan(call.body), call.writer.resume()
        if plan is None or written is None:
            return False
        model = plan.chat.model
        if isinstance(error, UnexplainedError) and not (await self.catalog.facts(model)).is_parsed:
            return False
        log.info("Ollama cannot read an answer of '%s': %s", model, error)
        answer = RenderedAnswer(plan, call.writer, self._renderer, exchange)
        return await answer.write_rest(written)

    async def ask(
        self,
        body: ChatBody | RawBody,
        deadline: Deadline,
        request: InFlightRequest,
        take: Take[T],
    ) -> T:
        """Send `body` in a context of the right size, and return what `take` makes of its lines.

        Raises:
            ContextLengthError: the prompt is longer than any context it can get.
            BackendError: as `OllamaClient.open` and `take`.
        """
        try:
            size = await self._sizing.size(body)
            try:
                lines = await self._open(body, deadline, size, request)
            except ContextLengthError as error:
                size = self._sizing.grown(size, error, body.model)
                lines = await self._open(body, deadline, size, request)
        except BackendError as error:
            self._learn(error, body.model)
            raise
        try:
            self._sizing.used(body.model, size)
            lines.prompt_estimate = size.count.tokens
            lines.may_be_lost = size.is_parsed
            return await take(lines, size.num_ctx, cold=request.cold)
        finally:
            self.client.close(lines)
            if lines.failure is not None:
                self._learn(lines.failure, body.model)
            elif lines.last is not None:
                self.breaker.succeeded(body.model)
                if lines.has_counts:
                    size.learn(lines.last.prompt_eval_count or 0)

    async def render(
        self, body: ChatBody, deadline: Deadline, request: InFlightRequest
    ) -> Rendering:
        """Let Ollama render `body`, which loads the model.

        Raises:
            BackendError: as `OllamaClient.post`.
        """
        size = await self._sizing.size(body)
        # A server that does not know the field would generate.
        few = replace(body, options=replace(body.options, num_predict=1))

        def post(body: ChatBody | RawBody, seconds: float) -> Coroutine[Any, Any, Rendering]:
            return self.client.post(body.path, body, Rendering, seconds)

        try:
            rendering = await self._send(few, post, deadline, size, request)
        except BackendError as error:
            self._learn(error, body.model)
            raise
        self._sizing.used(body.model, size)
        return rendering

    def _open(
        self, body: ChatBody | RawBody, deadline: Deadline, size: Size, request: InFlightRequest
    ) -> Awaitable[LineStream[Line]]:
        """Send `body` with the context of `size`, and wait for the first line."""
        return self._send(body, self.client.open, deadline, size, request)

    async def _send(
        self,
        body: ChatBody | RawBody,
        send: Callable[[ChatBody | RawBody, float], Coroutine[Any, Any, T]],
        deadline: Deadline,
        size: Size,
        request: InFlightRequest,
    ) -> T:
        """Return the result of `send`, within the deadline and the memory budget."""
        model = body.model
        options = _in_context(body.options, size.num_ctx)
        body = replace(
            body, options=options, keep_alive=self._keep_alive.of(model, body.keep_alive)
        )
        cold = self._is_cold(model, size.num_ctx)
        seconds = deadline.to_first_line(self._config.first_token_timeout, cold=cold)
        request.take(size.num_ctx)
        async with await self._reserve(model, size.num_ctx):
            request.wait(cold=cold)
            work = send(body, seconds)
            try:
                result = await (self._unless_hanging(work) if deadline.elsewhere else work)
            except BackendTimeoutError as error:
                if error.message == _HANGING or not self.work.answers:
                    raise
                raise _busy() from error
            request.begin()
        return result

    def _unless_hanging(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return unless_hanging(work, self._is_there, self._limits.look_every, _HANGING)

    def overdue(self) -> BackendError:
        """Return the error of several answers at once of which none has begun in time.

        Only here the circuit breaker learns of it: a single one of them has no time limit.
        """
        error = _busy() if self.work.answers else BackendTimeoutError(SILENT)
        self._learn(error)
        return error

    def _is_cold(self, model: str, num_ctx: int) -> bool:
        """True where the model must be loaded, or is loading: `/api/ps` lists it from the start."""
        return self.work.of(model).loads > 0 or self.catalog.must_load(model, num_ctx)

    async def context(self, body: ChatBody | RawBody) -> int:
        """Choose the `num_ctx` of `body`.

        Raises:
            ContextLengthError: the prompt is longer than any context it can get.
        """
        return (await self._sizing.size(body)).num_ctx

    async def count(self, body: ChatBody | RawBody) -> Count:
        """Estimate the tokens of `body`.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        return await self._sizing.count(body)

    async def count_rendered(
        self, asked: RenderedPlan | ChatBody | RawBody, deadline: Deadline
    ) -> Count | None:
        """Count the tokens of the prompt for `asked` as Ollama renders it; `None` where it would
        have to load the model, or does not render.

        Raises:
            BackendError: as `render`.
        """
        body = asked.chat if isinstance(asked, RenderedPlan) else asked
        if not isinstance(body, ChatBody):
            return None
        if self._is_cold(body.model, await self.context(body)):
            return None
        exchange = _Exchange(self, body, deadline)
        try:
            model = await self._renderer.model(body.model, exchange.post)
            if model is None:
                return None
            after = ""
            if isinstance(asked, RenderedPlan):
                body, after = asked.beginning(model.style)
            prompt = await self._renderer.prompt(body, model, exchange.post) + after
        finally:
            exchange.request.end()
        return await self.count(RawBody(model=body.model, prompt=prompt, options=body.options))

    async def embed(self, body: EmbedBody, deadline: Deadline) -> Embedded:
        """Return the vectors of `body`.

        Raises:
            BackendError: as `OllamaClient.post`.
        """
        with self.breaker.request(body.model):
            return await self._embed(body, deadline)

    async def _embed(self, body: EmbedBody, deadline: Deadline) -> Embedded:
        body = replace(body, keep_alive=self._keep_alive.of(body.model, body.keep_alive))
        seconds = self._config.first_token_timeout
        request = InFlightRequest(self.work, body.model)
        try:
            async with await self._reserve(body.model, None):
                work = self.client.post(body.path, body, Embedded, seconds)
                embedded = await (self._unless_hanging(work) if deadline.elsewhere else work)
        except ContextLengthError as error:
            raise await self._with_limit(error, body) from error
        except BackendError as error:
            self._learn(error, body.model)
            raise
        finally:
            request.end()
        self.breaker.succeeded(body.model)
        return embedded

    async def _with_limit(self, error: ContextLengthError, body: EmbedBody) -> ContextLengthError:
        """Add the limit to Ollama's words, by which its clients know the error."""
        own = (await self.catalog.facts(body.model)).context_length
        length = longest(own, body.options.num_ctx if body.options is not UNSET else None)
        if length is None:
            return error
        longer = ContextLengthError(
            f"An input is longer than the {length} tokens of '{body.model}'. {error.message}"
        )
        longer.limit = length
        return longer

    async def models(self) -> list[Model]:
        """List the models.

        Raises:
            BackendError: the server is not there, or its response is not a list.
        """
        was_circle = self.catalog.is_circle
        try:
            models = await self.catalog.models()
        except BackendError as error:
            self.breaker.failed(error)
            if self.catalog.is_circle and not was_circle:
                log.warning("%s: %s", self.address, CIRCLE)
            raise
        self.breaker.heard()
        if self._version is None:
            await self.health()
        return models

    @property
    def version(self) -> str | None:
        """Its version, since the first list of its models."""
        return self._version

    def has(self, model: str) -> bool | None:
        """Look `model` up in the last list; `None` before the first."""
        return self.catalog.has(model)

    async def load(self, model: str, keep_alive: float | None) -> None:
        """Load `model`; Ollama itself lets concurrent calls share one load."""
        wanted = UNSET if keep_alive is None else to_keep_alive(keep_alive)
        await self._load(model, self._keep_alive.of(model, wanted))

    async def set_pinned(self, model: str, pinned: bool) -> None:
        """See `KeepsPinned.set_pinned`. A request without a prompt changes the time of a model."""
        keep_alive = self._keep_alive.set_pinned(model, pinned)
        running = await self.client.get("/api/ps", Tags, self._limits.lookup)
        if full_name(model) in {full_name(tag.name) for tag in running.known}:
            await self._load(model, keep_alive)

    async def _load(self, model: str, keep_alive: float | UnsetType) -> None:
        with self.breaker.request(model):
            if (await self.catalog.facts(model)).only_embeds:
                body, num_ctx = EmbedBody(model=model, input=(), keep_alive=keep_alive), None
            else:
                num_ctx = await self._sizing.loading(model)
                options = Options(num_ctx=num_ctx) if num_ctx else UNSET
                body = LoadBody(model=model, keep_alive=keep_alive, options=options, shift=False)
            async with await self._reserve(model, num_ctx):
                await self._post(body, self._config.first_token_timeout)

    async def unload(self, model: str) -> None:
        """Unload `model`.

        Raises:
            BackendBusyError: a request of this backend uses it; Ollama does not report others.
        """
        if self.is_answering(model):
            raise BackendBusyError(f"'{model}' is answering a request.", param="model")
        await self._post(LoadBody(model=model, keep_alive=0), self._limits.unload)

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        async with aclosing(self.client.pulled(PullBody(model))) as lines:
            async for line in (line async for batch in lines for line in batch):
                if line.done:
                    self.catalog.forget()
                yield to_progress(line)

    async def health(self) -> Health:
        try:
            version = await self.client.get("/api/version", Version, self._limits.health)
        except BackendError as error:
            return Health(ok=False, detail=error.message, breaker=self.breaker.state)
        self._note_version(version.version)
        if self.catalog.is_circle:
            return Health(ok=False, detail=CIRCLE, breaker=self.breaker.state)
        failing = self.breaker.is_open
        return Health(
            ok=not failing,
            detail="Ollama failed several times." if failing else None,
            version=version.version,
            breaker=self.breaker.state,
        )

    async def aclose(self) -> None:
        await self.client.aclose()  # Requests in progress fail.
        await self.breaker.aclose()
        await self.catalog.aclose()

    async def _post(self, body: LoadBody | EmbedBody, seconds: float) -> None:
        try:
            await self.client.post(body.path, body, Line, seconds)
        except BackendError as error:
            self._learn(error, body.model)
            raise
        self.catalog.forget()  # The loaded models have changed.

    def _learn(self, error: BackendError, model: str = "") -> None:
        if isinstance(error, LostAnswerError):  # Of one answer; the server is well.
            return
        self.breaker.failed(error, model)
        if isinstance(error, ModelNotFoundError):
            self.catalog.forget()

    def _note_version(self, version: str) -> None:
        if self._version is None and (number := _number(version)) and number < _SAFE:
            log.warning(
                "Ollama %s at %s has known vulnerabilities: update it.", version, self.address
            )
        self._version = version

    async def _is_there(self) -> bool:
        """True where the server responds, whatever its response is."""
        try:
            await self.client.get("/api/version", Version, self._limits.look)
        except (BackendUnavailableError, BackendTimeoutError):
            return False
        except BackendError:
            return True
        return True

    async def _probe(self) -> None:
        """Request a token: a server may accept connections and do nothing else."""
        await self.catalog.models()
        model = self.catalog.smallest()
        if model is None:
            return
        options = Options(num_predict=1, num_ctx=await self._sizing.loading(model) or UNSET)
        body = RawBody(model=model, prompt="1", options=options, stream=False)
        seconds = min(_PROBE_SECONDS, self._config.first_token_timeout)
        await self.client.post("/api/generate", body, Line, seconds)


class _Exchange:
    """One request to one server, which may take several calls of its API."""

    def __init__(self, server: OllamaServer, body: ChatBody | RawBody, deadline: Deadline) -> None:
        """`body`: the one to answer, which is the longest."""
        self.request = InFlightRequest(server.work, body.model)
        self._body = body
        self._server = server
        self._deadline = deadline

    def ask(self, body: ChatBody | RawBody, take: Take[T]) -> Awaitable[T]:
        return self._server.ask(body, self._deadline, self.request, take)

    async def post(self, body: ChatBody) -> Rendering:
        """Render `body`; where that loads the model, with the context of the answer."""
        if await self._server.catalog.loaded(self._body.model) is None:
            self.request.take(await self._server.context(self._body))
        return await self._server.render(body, self._deadline, self.request)


def _in_context(options: Options, num_ctx: int) -> Options:
    """Return `options` for a context of `num_ctx` tokens.

    Ollama documents a `repeat_last_n` of -1 as all of them (`docs/modelfile.md`); the runner of its
    0.33 refuses every negative number.
    """
    last = num_ctx if options.repeat_last_n == -1 else options.repeat_last_n
    return replace(options, num_ctx=num_ctx, repeat_last_n=last)


def _busy() -> BackendBusyError:
    return BackendBusyError("Ollama is busy with other answers.")


def to_progress(line: PullLine) -> Progress:
    completed = line.completed or 0 if line.total is not None else line.completed
    return Progress(
        status=line.status, completed=completed, total=line.total, digest=line.digest or UNSET
    )


def _number(version: str) -> tuple[int, ...] | None:
    """`0.33.0-rc2` -> (0, 33, 0); `None` for 0.0.0, which is built from source and not old."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    number = tuple(int(part) for part in match.groups()) if match else (0, 0, 0)
    return number if any(number) else None
