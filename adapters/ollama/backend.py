"""The Ollama backend, through Ollama's native API."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable
from functools import partial
from itertools import pairwise

from msgspec.structs import replace

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
from adapters.chat_template import Rewrite, rewrite
from adapters.config import OllamaConfig
from adapters.errors import BackendError, UnsupportedParameterError
from adapters.features import OLLAMA
from adapters.ollama import administration, blobs
from adapters.ollama.catalog import TOOLS_AS_TEXT
from adapters.ollama.checked_answer import write_checked
from adapters.ollama.choices import choice_requests, write_choices
from adapters.ollama.context.token_estimate import Count
from adapters.ollama.errors import TemplateRefusalError, blame_input
from adapters.ollama.in_flight import RequestCounters
from adapters.ollama.memory import OllamaMemory
from adapters.ollama.rendered.plan import (
    RenderedPlan,
    keeps_budget,
    needs_rendering,
    to_plan,
)
from adapters.ollama.server import Call
from adapters.ollama.servers import OllamaServers
from adapters.ollama.translate.embeddings import Vector, to_bodies, to_vectors
from adapters.ollama.translate.request import (
    has_large_schema,
    must_check_first,
    refuse_unenforced,
    to_body,
    to_grammar,
)
from adapters.ollama.translate.stream import AnswerWriter, Checks, checks_of
from adapters.ollama.translate.template import depends_on_template, fitted
from adapters.ollama.translate.tool_choice import CallBegunError, is_forced, may_call
from adapters.ollama.wire import ChatBody, RawBody
from adapters.request import EmbeddingRequest, GenerationRequest, NamedTool, without
from adapters.sink import Sink
from adapters.upstream.deadlines import Deadline
from adapters.upstream.limits import DEFAULT_LIMITS, Limits


class OllamaBackend:
    kind = "ollama"
    naming = OllamaConfig.naming
    honours = OLLAMA

    def __init__(self, config: OllamaConfig, limits: Limits = DEFAULT_LIMITS) -> None:
        self._config = config
        self._servers = OllamaServers(config, limits)
        self.memory_user = OllamaMemory(self._servers)
        self._loading: Counter[str] = Counter()
        self._counters = RequestCounters()

    @property
    def version(self) -> str | None:
        return self._servers.version

    def behind(self) -> set[str]:
        return self._servers.behind()

    def check(self, request: GenerationRequest) -> None:
        refuse_unenforced(request)
        _refuse_budget(request)

    async def generate(
        self, request: GenerationRequest, sink: Sink, deadline: Deadline | None = None
    ) -> None:
        """Write the answer; always streamed from Ollama, so that cancelling stops the work.

        `deadline` replaces that of the request.

        Raises:
            BackendError: by the tables in `errors.py`.
            UnsupportedParameterError: a field that Ollama, or this model of it, cannot honour.
        """
        if has_large_schema(request):
            await asyncio.to_thread(to_grammar, request)
        if request.n > 1:
            await self._generate_choices(request, sink)
            return
        checks = await checks_of(request)
        body: ChatBody | RawBody | None = self._to_body(request)
        if depends_on_template(request):  # Another one will be sent: keep no copy of its images.
            body = None
        attempt = _Attempt(self._servers, checks, deadline or _deadline_of(request))
        with self._counters.track():
            if checks is not None and must_check_first(request):
                await write_checked(request, sink, checks, attempt.write)
                return
            call = await attempt.prepare(request, sink, body)
            try:
                await self._servers.generate(call)
            except (TemplateRefusalError, CallBegunError) as reason:
                await attempt.write_anew(reason)

    async def _generate_choices(self, request: GenerationRequest, sink: Sink) -> None:
        self._to_body(request)
        deadline = _deadline_of(request)
        later = self._config.first_token_timeout
        cold = request.patience is not None and not await self._servers.has_loaded(request.model)
        # One of several answers: whether they are in time is judged of all together.
        unlimited = replace(deadline, seconds=math.inf)
        await write_choices(
            choice_requests(request),
            sink,
            partial(self.generate, deadline=unlimited),
            (deadline.to_first_line(later, cold=cold), later),
            partial(self._servers.overdue, request.model),
        )

    def _to_body(self, request: GenerationRequest) -> ChatBody | RawBody:
        """Refuse or translate `request`; a refusal is not counted, and counts as no failure."""
        refuse_unsupported(request, self.honours, self.kind)
        return to_body(request)

    async def count_tokens(self, request: GenerationRequest) -> TokenCount:
        """Count the tokens of the prompt as a loaded model renders it, or estimate them: of others
        Ollama tells them only with an answer.

        The estimate is on the high side, and follows the counts of earlier answers.
        """
        refuse_unsupported(request, self.honours, self.kind)
        count = await self._count_rendered(request) or await self._servers.count(
            await self._estimated_body(request)
        )
        return TokenCount(count.tokens, exact=count.exact)

    async def _count_rendered(self, request: GenerationRequest) -> Count | None:
        """Count the prompt of a chat; `None` where it cannot be rendered without a load."""
        if not isinstance(request.prompt, tuple):
            return None
        if any(message.has_images for message in request.prompt):
            return None
        if not await self._servers.has_loaded(request.model):
            return None
        deadline = _deadline_of(request)
        try:
            asked = await _Attempt(self._servers, None, deadline).asked(request)
            return await self._servers.count_rendered(asked, deadline)
        except BackendError:  # That of an answer, such as a prompt that is too long.
            return None

    async def _estimated_body(self, request: GenerationRequest) -> ChatBody | RawBody:
        shows_tools = await _shows_tools(self._servers, request)
        if depends_on_template(request):
            request = fitted(request, await self._servers.template(request.model))
        return to_body(request, shows_tools)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed the inputs, in several calls where there are many.

        Raises:
            BackendError: by the tables in `errors.py`.
        """
        refuse_unsupported(request, self.honours, self.kind)
        deadline = Deadline(elsewhere=request.elsewhere)
        vectors: list[Vector] = []
        tokens = 0
        with self._counters.track():
            try:
                for body in list(to_bodies(request)):
                    embedded = await self._servers.embed(body, deadline)
                    vectors += to_vectors(embedded, body)
                    tokens += embedded.prompt_eval_count
            except BackendError as error:
                blame_input(error)
                raise
        return Embeddings(tuple(vectors), tokens)

    def pull(self, model: str) -> AsyncGenerator[Progress]:
        return self._servers.pull(model)

    async def list_models(self) -> list[Model]:
        return await self._servers.models(fresh=True)

    async def describe(self, model: str, *, verbose: bool = False) -> Description:
        return await administration.describe(
            await self._servers.owner(model), model, verbose=verbose
        )

    async def list_running(self) -> list[RunningModel]:
        return [administration.to_running(tag) for tag in await self._servers.running()]

    async def delete(self, model: str) -> None:
        await administration.delete(await self._servers.owner(model), model)

    async def copy(self, source: str, destination: str) -> None:
        await administration.copy(await self._servers.owner(source), source, destination)

    def create(self, recipe: bytes) -> AsyncGenerator[Progress]:
        return administration.create(self._servers.first, recipe)

    async def has_file(self, digest: str) -> bool:
        return await blobs.has_file(self._servers.first.client, self._config, digest)

    async def upload(self, digest: str, pieces: AsyncIterable[bytes]) -> bool:
        if not await self.has_file(digest):
            await blobs.upload(self._servers.first.client, self._config, digest, pieces)
            return True
        async for _ in pieces:  # Read and not sent: a client may not stop in the middle.
            pass
        return False

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        self._loading[model] += 1
        try:
            await self._servers.load(model, keep_alive)
        finally:
            self._loading[model] -= 1

    def loading(self) -> dict[str, Progress]:
        """Report the loads in progress; Ollama does not report how far they are."""
        names = {*+self._loading, *self._servers.loading()}
        return {name: Progress(status="loading") for name in names}

    async def unload(self, model: str) -> None:
        await self._servers.unload(model)

    async def set_pinned(self, model: str, pinned: bool) -> None:
        await self._servers.set_pinned(model, pinned)

    def is_well(self, model: str) -> bool:
        return self._servers.is_well(model)

    async def health(self) -> Health:
        health = await self._servers.health()
        return replace(health, counters=health.counters | self._counters.values)

    async def aclose(self) -> None:
        await self._servers.aclose()


def _deadline_of(request: GenerationRequest) -> Deadline:
    return Deadline(request.patience, elsewhere=request.patience is not None)


class _Attempt:
    """Writes one answer, in terms that the model's template can express."""

    def __init__(self, servers: OllamaServers, checks: Checks | None, deadline: Deadline) -> None:
        self._servers = servers
        self._checks = checks
        self._deadline = deadline
        self._shown = True
        """The template shows the tools and calls of the request."""
        self._names: frozenset[Rewrite] = frozenset()
        """Rewritings of the messages."""

    async def prepare(
        self, request: GenerationRequest, sink: Sink, body: ChatBody | RawBody | None = None
    ) -> Call:
        """Return the first call of an answer; `body` is that of `request`, where it is known.

        Raises:
            BackendError: as `OllamaServers.shown`.
            UnsupportedParameterError: as `_refuse_budget`.
        """
        _refuse_budget(request)
        ignored: tuple[str, ...] = ()
        if not keeps_budget(request):
            request, ignored = without(request, "reasoning_budget"), ("reasoning_budget",)
        if depends_on_template(request):
            body = None
        is_cold, is_changed = await self._fit(request)
        request = self._request
        self._writer = AnswerWriter(request, sink, self._checks, in_words=not self._shown)
        self._writer.ignored += ignored
        self._writer.was_cold = is_cold
        return self._call(request, None if is_changed else body)

    async def asked(self, request: GenerationRequest) -> RenderedPlan | ChatBody | RawBody:
        """Return what an answer begins with: its plan, or the conversation that Ollama renders.

        Raises:
            BackendError: as `OllamaServers.shown`.
        """
        await self._fit(request)
        if needs_rendering(self._request):
            return to_plan(self._request, self._shown, self._names)
        return to_body(self._request, self._shown, self._names)

    async def _fit(self, request: GenerationRequest) -> tuple[bool, bool]:
        """Fit `request` to its template; the results are true where the model had to be loaded for
        that, and where the conversation may have changed."""
        self._shown = await _shows_tools(self._servers, request)
        if depends_on_template(request):
            request = fitted(request, await self._servers.template(request.model))
        self._request = request
        if (self._shown and _has_tools(request)) or _has_rare_turns(request):
            # A template may leave them out in silence.
            return await self._look_at_template(), True
        return False, not self._shown

    async def write(self, request: GenerationRequest, sink: Sink) -> None:
        """Write the answer.

        Raises:
            BackendError: as `OllamaServers.generate`.
        """
        call = await self.prepare(request, sink)
        try:
            await self._servers.generate(call)
        except (TemplateRefusalError, CallBegunError) as reason:
            await self.write_anew(reason)

    async def write_anew(self, reason: TemplateRefusalError | CallBegunError) -> None:
        """Write the answer of another call, after `reason` has ended the first.

        Raises:
            BackendError: as `OllamaServers.generate`.
        """
        if isinstance(reason, TemplateRefusalError):
            known = self._names
            self._writer.was_cold = await self._look_at_template() or self._writer.was_cold
            if self._writer.has_started or self._names == known:
                raise reason
            try:
                await self._servers.generate(self._call(self._request))
                return
            except CallBegunError as begun:
                reason = begun
        self._writer.begin_call()
        choice = NamedTool(reason.name)
        forced = replace(self._request, tool_choice=choice, response_format=None)
        await self._servers.generate(self._call(forced))

    def _call(self, request: GenerationRequest, body: ChatBody | RawBody | None = None) -> Call:
        plan = None
        if needs_rendering(request):
            plan = to_plan(request, self._shown, self._names)
        body = body or to_body(request, self._shown, self._names)
        if self._names or not self._shown:
            self._writer.template = self._applied_rewrites(request)
        return Call(body, self._writer, self._deadline, plan)

    def _applied_rewrites(self, request: GenerationRequest) -> tuple[str, ...]:
        """Return the names of what is done with the messages, see `Started.template`."""
        messages = request.prompt if isinstance(request.prompt, tuple) else ()
        words = () if self._shown else (TOOLS_AS_TEXT,)
        return (*rewrite(messages, self._names).done, *words)

    async def _look_at_template(self) -> bool:
        """Find out what the template leaves out; true where the model had to be loaded for that."""
        body = to_body(self._request, self._shown)
        shown = await self._servers.shown(body, self._deadline)
        self._names = shown.rewrites
        if not shown.tools and _offers_tools(self._request):
            self._shown = False
        return shown.cold


def _refuse_budget(request: GenerationRequest) -> None:
    """Refuse a budget of reasoning that is no wish and cannot be kept.

    Raises:
        UnsupportedParameterError: the answer may have calls, or the conversation has images.
    """
    if "reasoning_budget" not in request.wishes and not keeps_budget(request):
        raise UnsupportedParameterError(
            "'reasoning_budget' is not supported on Ollama for raw prompts, nor together with tools"
            " or images.",
            param="reasoning_budget",
        )


async def _shows_tools(servers: OllamaServers, request: GenerationRequest) -> bool:
    """True where the template shows the tools and calls of `request`, if it has any."""
    if not _has_tools(request):
        return True
    is_read = is_forced(request) or may_call(request)
    return await servers.shows_tools(request.model, if_unknown=not is_read)


def _offers_tools(request: GenerationRequest) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def _has_tools(request: GenerationRequest) -> bool:
    """True for tools that may be called, and for calls in the history."""
    if not isinstance(request.prompt, tuple):
        return False
    has_calls = any(message.tool_calls or message.role == "tool" for message in request.prompt)
    return has_calls or _offers_tools(request)


def _has_rare_turns(request: GenerationRequest) -> bool:
    """True for messages of one role in a row, for system messages that are not the first, and for
    a chat without a message of the user."""
    if not isinstance(request.prompt, tuple):
        return False
    roles = [message.role for message in request.prompt]
    in_a_row = any(one == other != "tool" for one, other in pairwise(roles))
    return in_a_row or "system" in roles[1:] or "user" not in roles
