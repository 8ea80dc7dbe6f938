"""A name and what is needed -> the backend that answers."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from adapters.backend import Backend, Embeddings
from adapters.errors import (
    BackendError,
    BadUpstreamError,
    ContextLengthError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.events import Event, Finished, Restarted, Started
from adapters.request import EmbeddingRequest, Feature, GenerationRequest
from adapters.shortcut import Shortcut
from proxy.memory.budget import SharedBudget
from proxy.models.auto_pull import AutoPull
from proxy.models.registry import RegisteredModel, Registry, same_weights
from proxy.routing.by_speed import Clock, SpeedChooser
from proxy.routing.candidates import Candidate, Candidates
from proxy.routing.decision import Decider, Decision
from proxy.routing.estimates import Estimates
from proxy.routing.fallbacks import Fallbacks
from proxy.routing.lookup import ModelLookup
from proxy.routing.measurements import Measurements, Watching
from proxy.routing.requirements import Requirements, to_requirements
from proxy.sinks import closing, each, held

_NOTHING = Requirements()


class Route(Struct, frozen=True, kw_only=True):
    backend: Backend
    backend_name: str
    """The backend's configured name."""
    name: str
    """The backend's own name of the model."""
    model: str
    """The public id."""
    context: int | None = None
    """Tokens that prompt and answer may have together there, where that is known."""


class Watcher(Protocol):
    """Who wants to know what becomes of a request."""

    def routed(self, route: Route) -> None: ...

    def fell_back(self, route: Route, error: BackendError) -> None:
        """The backend of `route` failed before it said anything; the next is asked."""
        ...

    def started(self, event: Started) -> None: ...


class Unwatched:
    """Nobody does."""

    def routed(self, route: Route) -> None:
        pass

    def fell_back(self, route: Route, error: BackendError) -> None:
        pass

    def started(self, event: Started) -> None:
        pass


_NOBODY = Unwatched()

Through = Callable[[AsyncGenerator[Event]], AsyncGenerator[Event]]


def _unchanged(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    return events


class _Attempt(Watching):
    """What comes of asking one backend, shown to all who learn from it."""

    def __init__(
        self,
        measurements: Measurements,
        estimates: Estimates,
        route: Route,
        request: GenerationRequest,
        requirements: Requirements,
        watcher: Watcher,
    ) -> None:
        super().__init__(measurements, (route.backend_name, route.name), request)
        self._estimates = estimates
        self._requirements = requirements
        self._watcher = watcher

    def see(self, event: Event) -> None:
        super().see(event)
        if isinstance(event, Started):
            self._watcher.started(event)
        elif isinstance(event, Restarted):
            self._watcher.started(Started(event.context))
        elif isinstance(event, Finished):
            self._estimates.learn(self._key, self._requirements, event.usage)


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
        """`patience`: seconds that a backend has to begin, where another could answer as well."""
        self._registry = registry
        self._names = ModelLookup(registry, pulls)
        self._measurements = measurements
        self._patience = patience
        self.fallbacks = Fallbacks()
        self._estimates = Estimates()
        self._decider = Decider(
            registry,
            Candidates(registry, self._estimates, memory),
            SpeedChooser(measurements, self._estimates, clock),
        )

    async def generate(
        self,
        request: GenerationRequest,
        watcher: Watcher = _NOBODY,
        *,
        whole: bool = False,
        through: Through = _unchanged,
        shortcut: Shortcut | None = None,
    ) -> AsyncGenerator[Event]:
        """The events of the backend that `request.model`, a public name, leads to. Where that one
        fails before the first of them was given away, and not by the caller's mistake, the next
        that can is asked, once; so it is where the first one's context is too short and the other's
        may be longer. Of an answer that is sent `whole` none is given away before all are there;
        what comes of each attempt goes `through` something that wants to see it at once. Of texts
        after the first, where nobody holds them back, `shortcut` may have some instead.

        Raises:
            BackendError: as `resolve`, what the backend raised, or it broke the contract.
        """
        requirements = to_requirements(request)
        await self._names.fetch(request.model)
        decision = await self.decide(request.model, requirements, request)
        self._decider.note(decision)
        first, *others = self._routes(decision)
        is_held = whole and bool(others)
        request = replace(request, whole=whole, shortcut=None if is_held else shortcut)
        hurried = self._hurried(request, decision.order)
        answer = through(self._answer(first, hurried, requirements, watcher))
        events = held(answer) if is_held else answer
        began = False
        try:
            async with closing(events):
                async for event in events:
                    began = True
                    yield event
            return
        except BackendError as error:
            if began or not others or not _may_go_on(error, first, others[0]):
                raise
            failed = error
        self._leave(first, others[0], failed, watcher)
        self._learn_limit(first, request, failed)
        answer = through(self._answer(others[0], request, requirements, watcher))
        async with closing(events := _after(failed, answer)):
            async for event in events:
                yield event

    def _hurried(self, request: GenerationRequest, order: Sequence[Candidate]) -> GenerationRequest:
        """For the first of `order`. Nobody is hurried for the sake of one who is away."""
        if len(order) == 1 or order[1].away:
            return request
        return replace(request, patience=self._patience)

    def _leave(self, failed: Route, other: Route, error: BackendError, watcher: Watcher) -> None:
        self.fallbacks.note(failed.backend_name, error, other.backend_name)
        watcher.fell_back(failed, error)

    def _learn_limit(self, route: Route, request: GenerationRequest, error: BackendError) -> None:
        if isinstance(error, ContextLengthError) and request.num_ctx is None:
            self._estimates.refused((route.backend_name, route.name), error.limit)

    def _answer(
        self, route: Route, request: GenerationRequest, requirements: Requirements, watcher: Watcher
    ) -> AsyncGenerator[Event]:
        watcher.routed(route)
        attempt = _Attempt(
            self._measurements, self._estimates, route, request, requirements, watcher
        )
        events = route.backend.generate(replace(request, model=route.name))
        return each(events, request.n, attempt)

    async def embed(self, request: EmbeddingRequest, watcher: Watcher = _NOBODY) -> Embeddings:
        """The vectors of the backend that `request.model`, a public name, leads to. Another is
        asked, as in `generate`, where it has the very same weights: others' vectors do not mix.

        Raises:
            BackendError: as `resolve`, what the backend raised, or vectors are missing.
        """
        await self._names.fetch(request.model)
        first, *others = await self.routes(request.model, to_requirements(request))
        twins = [other for other in others if self._same_weights(first, other)]
        try:
            return await self._embed(first, replace(request, elsewhere=bool(twins)), watcher)
        except BackendError as error:
            if not twins or isinstance(error, InvalidRequestError):
                raise
            self._leave(first, twins[0], error, watcher)
        return await self._embed(twins[0], request, watcher)

    async def _embed(self, route: Route, request: EmbeddingRequest, watcher: Watcher) -> Embeddings:
        watcher.routed(route)
        embeddings = await route.backend.embed(replace(request, model=route.name))
        if len(embeddings.vectors) != len(request.inputs):
            raise BadUpstreamError("The backend sent another number of vectors than of inputs.")
        return embeddings

    def _same_weights(self, one: Route, other: Route) -> bool:
        """As far as both backends tell; what is not known is not the same."""
        models = [self._registry.backends[r.backend_name].models.get(r.name) for r in (one, other)]
        return same_weights(models) is True

    async def resolve(self, name: str, features: frozenset[Feature]) -> Route:
        """The first of `routes`."""
        return (await self.routes(name, Requirements(features=features)))[0]

    async def routes(self, name: str, requirements: Requirements = _NOTHING) -> list[Route]:
        """Where `name` can be answered as `demand` says, the best first; never empty.

        Raises:
            InvalidRequestError: no model can have such a name.
            ModelNotFoundError: no model has it, or several do in its short form.
            BackendUnavailableError: the backend that the name points to is away.
            UnsupportedParameterError: the model is there, and nobody can honour a feature on it.
        """
        return self._routes(await self.decide(name, requirements))

    async def decide(
        self, name: str, requirements: Requirements, request: GenerationRequest | None = None
    ) -> Decision:
        """As `routes`, with the reasons. Nothing is begun, and the next decision is the same."""
        return self._decider.decide(await self.find(name), requirements, request)

    def weighed(self, decision: Decision, requirements: Requirements) -> Decision:
        """As `Decider.weighed`."""
        return self._decider.weighed(decision, requirements)

    async def find(self, name: str) -> RegisteredModel:
        """As `ModelLookup.find`."""
        return await self._names.find(name)

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


def _may_go_on(error: BackendError, failed: Route, other: Route) -> bool:
    """Whether `other` may do better than `failed`, which ended with `error`."""
    if isinstance(error, UnsupportedParameterError):
        return True  # A loaded model shows what it cannot do; another engine may.
    if not isinstance(error, ContextLengthError):
        return not isinstance(error, InvalidRequestError)
    limit = error.limit or failed.context
    return other.context is None or limit is None or other.context > limit


async def _after(failed: BackendError, answer: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The `answer` of who stands in; where both have too little room, the caller hears of more."""
    try:
        async with closing(answer):
            async for event in answer:
                yield event
    except ContextLengthError as error:
        raise _longer(failed, error) from error


def _longer(first: BackendError, second: ContextLengthError) -> ContextLengthError:
    """Of two refusals the one with the bigger limit: that is what there is room for."""
    if isinstance(first, ContextLengthError) and (first.limit or 0) > (second.limit or 0):
        return first
    return second
