"""The router: sends a request to the backend that its model and its requirements lead to."""

import time
from collections.abc import Callable
from copy import copy
from functools import reduce

from msgspec import Struct
from msgspec.structs import replace

from adapters.audio import (
    AudioSink,
    Speech,
    SpeechEvent,
    SpeechRequest,
    Transcriber,
    TranscriptEvent,
    TranscriptionRequest,
)
from adapters.backend import Backend, Capability, Embeddings, TokenCount, TokenCounter
from adapters.errors import (
    BackendError,
    BadUpstreamError,
    ContextLengthError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.events import Finished, Usage
from adapters.request import EmbeddingRequest, Feature, GenerationRequest, needs, without
from adapters.sink import Sink
from proxy.memory.budget import SharedBudget
from proxy.models.auto_pull import AutoPull
from proxy.models.registry import RegisteredModel, Registry, same_weights
from proxy.record import Attempt, Record
from proxy.routing.audio import RecordedAudio
from proxy.routing.by_speed import Clock, SpeedChooser
from proxy.routing.candidates import Candidates
from proxy.routing.decision import Decider, Decision
from proxy.routing.estimates import Estimates
from proxy.routing.explanation import to_reasons
from proxy.routing.fallbacks import Fallbacks
from proxy.routing.lookup import ModelLookup, Permission
from proxy.routing.measurements import Measurements
from proxy.routing.other_kinds import no_such_capability, refuse_other_kinds
from proxy.routing.requirements import Requirements, to_requirements
from proxy.sinks import CheckedSink

_NOTHING = Requirements()
_FIRST_LISTING_SECONDS = 10.0
"""Time that a request for audio waits for the first list of a backend's models."""


class Route(Struct, frozen=True, kw_only=True):
    backend: Backend
    backend_name: str
    """The backend's configured name."""
    name: str
    """The backend's own name of the model."""
    model: str
    """The public id."""
    context: int | None = None
    """Tokens that prompt and answer may have together there, if known."""


class Router:
    def __init__(
        self,
        registry: Registry,
        measurements: Measurements,
        memory: SharedBudget | None = None,
        pulls: AutoPull | None = None,
        clock: Clock = time.monotonic,
        patience: float | None = None,
    ) -> None:
        """`patience`: seconds that a backend has to begin, if another could answer as well."""
        self._registry = registry
        self._pulls = pulls
        self._lookup = ModelLookup(registry, pulls)
        self._measurements = measurements
        self.patience = patience
        """Seconds that a backend has to begin, if another could answer as well."""
        self.fallbacks = Fallbacks()
        self._estimates = Estimates()
        self._decider = Decider(
            registry,
            Candidates(registry, self._estimates, memory),
            SpeedChooser(measurements, self._estimates, clock),
        )

    def restricted(self, permission: Permission) -> "Router":
        """Return a router with the same state that finds only what `permission` allows."""
        router = copy(self)
        router._lookup = ModelLookup(self._registry, self._pulls, permission)
        return router

    async def generate(
        self, request: GenerationRequest, sink: Sink, record: Record | None = None
    ) -> None:
        """Write the answer of the backend that `request.model`, a public name, leads to.

        The next candidate is tried, once, if the first fails before it has written anything and
        not by the caller's mistake, or if its context is too short and the other's may be longer.
        A request that is answered `whole` may fail anywhere: its events so far are then void
        (`Restarted`).

        Raises:
            BackendError: as `resolve`, the backend's own, or it broke the contract.
        """
        requirements = to_requirements(request)
        record = record if record is not None else Record(clock=self._measurements.clock)
        await self._lookup.fetch(request.model)
        decision = await self.decide(request.model, requirements, request)
        self._decider.note(decision)
        record.why = self._reasons(request.model, decision)
        first, *others = self._routes(decision)
        run = _Run(request, requirements, sink, record)
        try:
            patience = self.patience if others and not decision.order[1].away else None
            await self._attempt(run, first, patience=patience)
            return
        except BackendError as error:
            may_restart = request.whole or not run.started
            if not others or not may_restart or not _may_fall_back(error, first, others[0]):
                raise
            self._fall_back(run, first, others[0], error)
            failure = error
        try:
            await self._attempt(run, others[0])
        except ContextLengthError as error:
            raise _longer(failure, error) from error

    async def _attempt(self, run: "_Run", route: Route, patience: float | None = None) -> None:
        """Run the request on `route`; `patience`: seconds that its first event may take."""
        attempt = run.record.attempt(route.backend_name, route.name, run.request.n)
        attempt.fingerprint = self._registry.backends[route.backend_name].fingerprint(route.name)
        run.attempt = attempt
        checked = CheckedSink(run.sink, attempt, restarts=run.started)
        attempt.ungranted = self._ungranted(run.request, route)
        granted = reduce(without, attempt.ungranted, run.request)
        request = replace(granted, model=route.name, patience=patience)
        attempt.concurrency = self._measurements.begin((attempt.backend, attempt.model))
        try:
            await route.backend.generate(request, checked)
            checked.end()
        finally:
            self._measurements.end((attempt.backend, attempt.model))
            run.started = run.started or checked.started
        for end in attempt.finished.values():
            self._estimates.learn((attempt.backend, attempt.model), run.requirements, end.usage)
        if (
            not request.echo
        ):  # An echoed prompt is sent before it is read: its times are not comparable.
            self._measurements.read(attempt)

    def _ungranted(self, request: GenerationRequest, route: Route) -> tuple[Feature, ...]:
        """List the wishes of `request` that `route` lacks."""
        if not request.wishes:
            return ()
        model = self._registry.backends[route.backend_name].models.get(route.name)
        able = route.backend.honours - (model.lacks if model is not None else frozenset())
        return tuple(sorted((needs(request) & request.wishes) - able))

    def _fall_back(self, run: "_Run", failed: Route, other: Route, error: BackendError) -> None:
        run.record.fall_back(run.attempt, error)
        self.fallbacks.note(failed.backend_name, error, other.backend_name)
        if isinstance(error, ContextLengthError) and run.request.num_ctx is None:
            self._estimates.refused((failed.backend_name, failed.name), error.limit)

    async def count_tokens(
        self, request: GenerationRequest, record: Record | None = None
    ) -> TokenCount:
        """Count the prompt's tokens on the backend that would answer `request`.

        Raises:
            UnsupportedParameterError: that backend counts no tokens.
            BackendError: as `resolve`, or the backend's own.
        """
        record = record if record is not None else Record()
        await self._lookup.fetch(request.model)
        decision = await self.decide(request.model, to_requirements(request), request)
        route = self._routes(decision)[0]
        record.attempt(route.backend_name, route.name)
        if not isinstance(route.backend, TokenCounter):
            raise UnsupportedParameterError(
                f"The backend '{route.backend_name}' cannot count tokens.", param="model"
            )
        granted = reduce(without, self._ungranted(request, route), request)
        return await route.backend.count_tokens(replace(granted, model=route.name))

    async def speak(
        self, request: SpeechRequest, sink: AudioSink[SpeechEvent], record: Record
    ) -> None:
        """Speak on the backend that `request.model`, a public name, leads to.

        Raises:
            InvalidRequestError: the model does not speak; names those that do.
            BackendError: as `find`, or the backend's own.
        """
        route, backend = await self.find_speech(request.model)
        attempt = record.attempt(route.backend_name, route.name)
        recorded = RecordedAudio(sink, attempt)
        await backend.speak(replace(request, model=route.name), recorded)

    async def find_speech(self, name: str) -> tuple[Route, Speech]:
        """Find the backend that speaks with the model `name`; raises as `speak`."""
        route = await self._audio_route(name, "speech")
        if not isinstance(route.backend, Speech):
            raise UnsupportedParameterError(
                f"The backend '{route.backend_name}' does not speak.", param="model"
            )
        return route, route.backend

    async def transcribe(
        self, request: TranscriptionRequest, sink: AudioSink[TranscriptEvent], record: Record
    ) -> None:
        """Transcribe as `speak` speaks; errors alike."""
        route, backend = await self.find_transcriber(request.model)
        attempt = record.attempt(route.backend_name, route.name)
        recorded = RecordedAudio(sink, attempt)
        await backend.transcribe(replace(request, model=route.name), recorded)

    async def find_transcriber(self, name: str) -> tuple[Route, Transcriber]:
        """Find the backend that transcribes with the model `name`; raises as `speak`."""
        route = await self._audio_route(name, "transcription")
        if not isinstance(route.backend, Transcriber):
            raise UnsupportedParameterError(
                f"The backend '{route.backend_name}' does not transcribe.", param="model"
            )
        return route, route.backend

    async def _audio_route(self, name: str, capability: Capability) -> Route:
        await self._lookup.fetch(name)
        entry = await self.find(name)
        if any(deployment.model is None for deployment in entry.deployments):
            # An alias is known before its backend has listed its models for the first time.
            await self._registry.refresh(_FIRST_LISTING_SECONDS, only_new=True)
            entry = await self.find(name)
        for deployment in entry.deployments:
            if deployment.model is not None and capability in deployment.model.capabilities:
                return Route(
                    backend=self._registry.backends[deployment.backend].backend,
                    backend_name=deployment.backend,
                    name=deployment.name,
                    model=entry.id,
                )
        raise no_such_capability(entry, capability)

    async def embed(self, request: EmbeddingRequest, record: Record | None = None) -> Embeddings:
        """Compute vectors on the backend that `request.model`, a public name, leads to.

        Another is tried, as in `generate`, if it has the same weights: vectors of different
        weights are not comparable.

        Raises:
            BackendError: as `resolve`, the backend's own, or vectors are missing.
        """
        record = record if record is not None else Record()
        await self._lookup.fetch(request.model)
        decision = await self.decide(request.model, to_requirements(request), request)
        record.why = self._reasons(request.model, decision)
        first, *others = self._routes(decision)
        same = [other for other in others if self._same_weights(first, other)]
        try:
            return await self._embed(first, replace(request, elsewhere=bool(same)), record)
        except BackendError as error:
            if not same or isinstance(error, InvalidRequestError):
                raise
            record.fall_back(record.attempts[-1], error)
            self.fallbacks.note(first.backend_name, error, same[0].backend_name)
        return await self._embed(same[0], request, record)

    async def _embed(self, route: Route, request: EmbeddingRequest, record: Record) -> Embeddings:
        attempt = record.attempt(route.backend_name, route.name)
        embeddings = await route.backend.embed(replace(request, model=route.name))
        # Without `note`, as vectors have no first token.
        usage = Usage(prompt_tokens=embeddings.prompt_tokens, completion_tokens=0)
        attempt.finished[0] = Finished("stop", usage)
        if len(embeddings.vectors) != len(request.inputs):
            vectors, inputs = len(embeddings.vectors), len(request.inputs)
            raise BadUpstreamError(f"The backend returned {vectors} vectors for {inputs} inputs.")
        return embeddings

    def _same_weights(self, one: Route, other: Route) -> bool:
        """Compare by what both backends report; unknown weights are not the same."""
        models = [self._registry.backends[r.backend_name].models.get(r.name) for r in (one, other)]
        return same_weights(models) is True

    async def resolve(self, name: str, features: frozenset[Feature]) -> Route:
        """The first of `routes`."""
        return (await self.routes(name, Requirements(features=features)))[0]

    async def routes(self, name: str, requirements: Requirements = _NOTHING) -> list[Route]:
        """List the backends that can answer `name`, the best first; never empty.

        Raises:
            InvalidRequestError: no model can have such a name.
            ModelNotFoundError: there is no such model, or several share this short name.
            BackendUnavailableError: the backends that may have the model are unreachable.
            UnsupportedParameterError: no backend that has the model honours a required feature.
        """
        return self._routes(await self.decide(name, requirements))

    async def decide(
        self,
        name: str,
        requirements: Requirements,
        request: GenerationRequest | EmbeddingRequest | None = None,
    ) -> Decision:
        """Decide as for `routes`, with the reasons. Has no effect on later decisions.

        Raises:
            InvalidRequestError: `request` wants text or vectors of a model of another kind.
        """
        entry = await self.find(name)
        if request is not None:
            refuse_other_kinds(entry, requirements)
        prompt = request if isinstance(request, GenerationRequest) else None
        return self._decider.decide(entry, requirements, prompt)

    def weighed(self, decision: Decision, requirements: Requirements) -> Decision:
        """Assess a single candidate as well; see `Decider.weighed`."""
        return self._decider.weighed(decision, requirements)

    def _reasons(self, name: str, decision: Decision) -> Callable[[], list[str]]:
        """Return a function that explains `decision`; `name` is the model's in the request."""
        backend, slash, _ = name.partition("/")
        is_required = bool(slash) and backend in self._registry.backends
        return lambda: list(to_reasons(decision, is_required=is_required))

    async def find(self, name: str) -> RegisteredModel:
        """Resolve a public name; see `ModelLookup.find`."""
        return await self._lookup.find(name)

    def _routes(self, decision: Decision) -> list[Route]:
        return [
            Route(
                backend=self._registry.backends[candidate.deployment.backend].backend,
                backend_name=candidate.deployment.backend,
                name=candidate.deployment.name,
                model=decision.entry.id,
                context=candidate.context,
            )
            for candidate in decision.order
        ]


class _Run:
    """One request over all its attempts."""

    def __init__(
        self, request: GenerationRequest, requirements: Requirements, sink: Sink, record: Record
    ) -> None:
        self.request = request
        self.requirements = requirements
        self.sink = sink
        self.record = record
        self.attempt: Attempt
        """The latest attempt."""
        self.started = False
        """The reader has events of an attempt."""


def _may_fall_back(error: BackendError, failed: Route, other: Route) -> bool:
    """Return true if `other` may succeed although `failed` ended with `error`."""
    if isinstance(error, UnsupportedParameterError):
        return True  # Only the loaded model shows the limit; another engine may not have it.
    if not isinstance(error, ContextLengthError):
        return not isinstance(error, InvalidRequestError)
    limit = error.limit or failed.context
    return other.context is None or limit is None or other.context > limit


def _longer(first: BackendError, second: ContextLengthError) -> ContextLengthError:
    """Choose the error with the larger context limit."""
    if isinstance(first, ContextLengthError) and (first.limit or 0) > (second.limit or 0):
        return first
    return second
