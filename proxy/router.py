"""A name and what is needed -> the backend that answers."""

import difflib
from collections.abc import AsyncGenerator
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from adapters.backend import Backend, Embeddings
from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    BadUpstreamError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.events import Event, Started, TextDelta
from adapters.request import EmbeddingRequest, Feature, GenerationRequest, needs
from proxy.answers import closing, each, held
from proxy.fallbacks import Fallbacks
from proxy.measurements import Measurements
from proxy.registry import Entry, Place, Registry, same_weights

_PATIENCE = 1.0
"""Seconds a request waits for a list of models that might know its name."""
_LONGEST_NAME = 200


class Route(Struct, frozen=True, kw_only=True):
    backend: Backend
    name: str
    """The backend's own name of the model."""
    model: str
    """The public id."""


class Watcher(Protocol):
    """Who wants to know what becomes of a request."""

    def routed(self, route: Route) -> None: ...

    def fell_back(self, route: Route, error: BackendError) -> None:
        """The backend of `route` failed before it said anything; the next is asked."""
        ...

    def started(self, event: Started) -> None: ...


class Router:
    def __init__(self, registry: Registry, measurements: Measurements) -> None:
        self._registry = registry
        self._measurements = measurements
        self.fallbacks = Fallbacks()

    async def generate(
        self, request: GenerationRequest, watcher: Watcher, *, whole: bool = False
    ) -> AsyncGenerator[Event]:
        """The events of the backend that `request.model`, a public name, leads to. Where that one
        fails before the first of them was given away, and not by the caller's mistake, the next
        that can is asked, once. Of an answer that is sent `whole` none is before all are there.

        Raises:
            BackendError: as `resolve`, what the backend raised, or it broke the contract.
        """
        first, *others = await self.routes(request.model, needs(request))
        answer = self._answer(first, request, watcher)
        events = held(answer) if whole and others else answer
        began = False
        try:
            async with closing(events):
                async for event in events:
                    began = True
                    yield event
            return
        except BackendError as error:
            if began or not others or isinstance(error, InvalidRequestError):
                raise
            self._leave(first, others[0], error, watcher)
        async with closing(events := self._answer(others[0], request, watcher)):
            async for event in events:
                yield event

    def _leave(self, failed: Route, other: Route, error: BackendError, watcher: Watcher) -> None:
        self.fallbacks.note(failed.backend.kind, error, other.backend.kind)
        watcher.fell_back(failed, error)

    async def _answer(
        self, route: Route, request: GenerationRequest, watcher: Watcher
    ) -> AsyncGenerator[Event]:
        watcher.routed(route)
        events = each(route.backend.generate(replace(request, model=route.name)), request.n)
        with self._measurements.watching(route.backend.kind, route.name, request) as watch:
            async with closing(events):
                async for event in events:
                    # Nearly all events are texts after the first: those cost nothing here.
                    if watch.first is None or not isinstance(event, TextDelta):
                        watch.see(event)
                        if isinstance(event, Started):
                            watcher.started(event)
                    yield event

    async def embed(self, request: EmbeddingRequest, watcher: Watcher) -> Embeddings:
        """The vectors of the backend that `request.model`, a public name, leads to. Another is
        asked, as in `generate`, where it has the very same weights: others' vectors do not mix.

        Raises:
            BackendError: as `resolve`, what the backend raised, or vectors are missing.
        """
        first, *others = await self.routes(request.model, needs(request))
        twins = [other for other in others if self._same_weights(first, other)]
        try:
            return await self._embed(first, request, watcher)
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
        models = [self._registry.shelves[r.backend.kind].models.get(r.name) for r in (one, other)]
        return same_weights(models) is True

    async def resolve(self, name: str, features: frozenset[Feature]) -> Route:
        """The first of `routes`."""
        return (await self.routes(name, features))[0]

    async def routes(self, name: str, features: frozenset[Feature]) -> list[Route]:
        """Where `name` can be answered with all of `features`, the best first; never empty.

        Raises:
            InvalidRequestError: no model can have such a name.
            ModelNotFoundError: no model has it, or several do in its short form.
            BackendUnavailableError: the backend that the name points to is away.
            UnsupportedParameterError: the model is there, and nobody can honour a feature on it.
        """
        entry = await self.find(name)
        able = [place for place in entry.places if not self._lacks(place, features)]
        if not able:
            raise self._unsupported(entry, features)
        ordered = sorted(able, key=lambda place: self._rank(place, entry.prefer))
        shelves = self._registry.shelves
        return [
            Route(backend=shelves[place.kind].backend, name=place.name, model=entry.id)
            for place in ordered
        ]

    async def find(self, name: str) -> Entry:
        """The model called `name`, with a second look if nobody knows it yet."""
        _check_name(name)
        entry = self._lookup(name)
        if not entry.places:
            await self._registry.refresh(_PATIENCE)
            entry = self._lookup(name)
        if not entry.places:
            raise self._not_found(name)
        return entry

    def _not_found(self, name: str) -> BackendError:
        """404, unless the name points to a backend that is away: then nobody can know."""
        kind, slash, rest = name.partition("/")
        forced = bool(slash) and kind in self._registry.shelves
        # Only Ollama's names have a tag.
        owner = kind if forced else "ollama" if ":" in rest or ":" in kind else None
        shelf = self._registry.shelves.get(owner) if owner is not None else None
        if shelf is not None and shelf.reached is False:
            return BackendUnavailableError(
                f"The {owner} backend, which may have {name!r}, does not answer.", param="model"
            )
        return ModelNotFoundError(self._unknown(name), param="model")

    def _lookup(self, name: str) -> Entry:
        kind, slash, rest = name.partition("/")
        if slash and kind in self._registry.shelves:
            return self._match(rest, {kind})
        return self._match(name, set(self._registry.shelves))

    def _match(self, name: str, kinds: set[str]) -> Entry:
        """Exact id, then a name of the user's own, then a short name that is unique."""
        if (entry := self._registry.named(name, kinds)).places:
            return entry
        entries = self._registry.short(name, kinds)
        if len(entries) > 1:
            raise ModelNotFoundError(_ambiguous(name, entries), param="model")
        return entries[0] if entries else Entry(id=name, places=())

    def _lacks(self, place: Place, features: frozenset[Feature]) -> list[Feature]:
        """What of `features` is not to be had there; a model that tells nothing is trusted."""
        honours = self._registry.shelves[place.kind].backend.honours
        lacks = place.model.lacks if place.model else frozenset[Feature]()
        return sorted((features - honours) | (features & lacks))

    def _rank(self, place: Place, prefer: str) -> tuple[bool, bool, int]:
        """Smallest first: who is there, who is preferred, the order of the backends.

        Who was not there when last asked may have come back since: it comes last, and is tried.
        """
        order = list(self._registry.shelves)
        absent = self._registry.shelves[place.kind].reached is False
        return absent, place.kind != prefer, order.index(place.kind)

    def _unsupported(self, entry: Entry, features: frozenset[Feature]) -> Exception:
        place = min(entry.places, key=lambda place: len(self._lacks(place, features)))
        feature = self._lacks(place, features)[0]
        shelves = self._registry.shelves
        able = [k for k, s in shelves.items() if k != place.kind and feature in s.backend.honours]
        hint = f" A model on {' or '.join(able)} could honour it." if able else ""
        return UnsupportedParameterError(
            f"'{feature}' is not supported for '{entry.id}' on {place.kind}.{hint}", param=feature
        )

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._registry.names(), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(repr(each) for each in near)}?" if near else ""
        return f"There is no model {name!r}.{hint}"


def _check_name(name: str) -> None:
    """Names are only ever compared with known ones; these could not be anybody's.

    Raises:
        InvalidRequestError: it is empty, very long, or not printable.
    """
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidRequestError("This cannot be the name of a model.", param="model")


def _ambiguous(name: str, entries: list[Entry]) -> str:
    places = [place for entry in entries for place in entry.places]
    named = ", ".join(f"'{place.kind}/{place.name}'" for place in places[:5])
    return f"Several models are called {name!r} for short: {named}. Name one of them in full."
