"""Who answers a request, and why: decided in one place, for those who ask and those who run it."""

from typing import Literal

from msgspec import Struct

from adapters.errors import UnsupportedParameterError
from adapters.request import Feature
from proxy.candidates import Candidate, Candidates
from proxy.choice import BySpeed, Choice, Pick
from proxy.demand import Demand
from proxy.registry import Entry, Place, Registry

Rule = Literal["only", "ready", "preferred", "steady"] | BySpeed
"""Why the first is the first: nobody else can; the others have obstacles; the config prefers it;
its vectors are the ones that came before; or by what was measured."""


class Decision(Struct, frozen=True, kw_only=True):
    entry: Entry
    order: tuple[Candidate, ...]
    """Those that can answer, the best first; never empty."""
    unable: tuple[tuple[Place, tuple[Feature, ...]], ...]
    """The others, each with what it cannot honour."""
    rule: Rule
    pick: Pick | None = None
    """Where there was something to choose."""


class Decider:
    def __init__(self, registry: Registry, candidates: Candidates, choice: Choice) -> None:
        self._registry = registry
        self._candidates = candidates
        self._choice = choice

    def decide(self, entry: Entry, demand: Demand) -> Decision:
        """By what is known: nobody is asked, nothing is begun.

        Raises:
            UnsupportedParameterError: no place of `entry` honours all of `demand.features`.
        """
        lacking = [(place, self._lacks(place, demand.features)) for place in entry.places]
        unable = tuple((place, lacks) for place, lacks in lacking if lacks)
        able = [place for place, lacks in lacking if not lacks]
        if not able:
            raise self._unsupported(entry, unable)
        weighed = [self._candidates.weigh(place, demand) for place in able]
        ranked = sorted(weighed, key=lambda candidate: self._rank(candidate, entry.prefer))
        rule = _rule(ranked, entry.prefer, demand)
        if rule is not None:
            return Decision(entry=entry, order=tuple(ranked), unable=unable, rule=rule)
        equals = [each for each in ranked if each.obstacles == ranked[0].obstacles]
        pick = self._choice.pick(equals, demand)
        order = (*pick.order, *ranked[len(equals) :])
        return Decision(entry=entry, order=order, unable=unable, rule=pick.rule, pick=pick)

    def note(self, decision: Decision) -> None:
        """It is acted upon."""
        if decision.pick is not None:
            self._choice.note(decision.pick)

    def _lacks(self, place: Place, features: frozenset[Feature]) -> tuple[Feature, ...]:
        """What of `features` is not to be had there; a model that tells nothing is trusted."""
        honours = self._registry.shelves[place.kind].backend.honours
        lacks = place.model.lacks if place.model else frozenset[Feature]()
        return tuple(sorted((features - honours) | (features & lacks)))

    def _rank(self, candidate: Candidate, prefer: str) -> tuple[tuple[bool, ...], bool, int]:
        """Smallest first: who has no obstacle, who is preferred, the order of the backends."""
        kind = candidate.place.kind
        return candidate.obstacles, kind != prefer, list(self._registry.shelves).index(kind)

    def _unsupported(
        self, entry: Entry, unable: tuple[tuple[Place, tuple[Feature, ...]], ...]
    ) -> UnsupportedParameterError:
        """Of the place that lacks least."""
        place, (feature, *_) = min(unable, key=lambda each: len(each[1]))
        shelves = self._registry.shelves
        able = [k for k, s in shelves.items() if k != place.kind and feature in s.backend.honours]
        hint = f" A model on {' or '.join(able)} could honour it." if able else ""
        return UnsupportedParameterError(
            f"'{feature}' is not supported for '{entry.id}' on {place.kind}.{hint}", param=feature
        )


def _rule(ranked: list[Candidate], prefer: str, demand: Demand) -> Rule | None:
    """Why the first of `ranked` is it, where that does not depend on speed."""
    first, *others = ranked
    if not others:
        return "only"
    if all(other.obstacles > first.obstacles for other in others):
        return "ready"
    if first.place.kind == prefer:
        return "preferred"
    # Vectors of two engines cannot be compared with each other.
    return "steady" if "embeddings" in demand.features else None
