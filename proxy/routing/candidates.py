"""The places that can honour a request, and what speaks against each of them all the same."""

from msgspec import Struct

from proxy.memory.budget import Memory
from proxy.memory.ledger import Fit, Key
from proxy.models.registry import Place, Registry
from proxy.routing.estimates import Habits
from proxy.routing.requirements import Demand

_MARGIN = 1.1
"""A prompt may be longer than it was thought to be."""


class Candidate(Struct, frozen=True, kw_only=True):
    place: Place
    tokens: int = 0
    """Of the prompt, there, roughly; 0 where that does not matter."""
    away: bool = False
    """The backend did not answer when it was last asked, or keeps failing. It is tried last."""
    short: bool = False
    """Its context seems not to hold prompt and answer. Only the backend knows: it may be tried."""
    fit: Fit = "fits"
    context: int | None = None
    """Tokens that prompt and answer may have together, where that is known."""

    @property
    def key(self) -> Key:
        return self.place.kind, self.place.name

    @property
    def is_at_hand(self) -> bool:
        """Asking it costs no other model its memory."""
        return self.fit in ("loaded", "fits")

    @property
    def obstacles(self) -> tuple[bool, bool, bool]:
        """The worst first: who has less of them comes before all others."""
        return self.away, self.short, self.fit == "full"

    @property
    def hindrance(self) -> tuple[bool, ...]:
        """The same, and what only counts where nobody is preferred."""
        return *self.obstacles, not self.is_at_hand


class Candidates:
    def __init__(self, registry: Registry, habits: Habits, memory: Memory | None) -> None:
        self._registry = registry
        self._habits = habits
        self._memory = memory

    def weigh(self, place: Place, demand: Demand) -> Candidate:
        """By what is known already: nobody is asked."""
        away = self._registry.shelves[place.kind].is_away(place.name)
        if "embeddings" in demand.features:
            # Vectors of two engines cannot be compared: nothing fleeting decides on them.
            return Candidate(place=place, away=away)
        tokens = self._habits.prompt_tokens((place.kind, place.name), demand)
        context = self._context(place)
        return Candidate(
            place=place,
            tokens=tokens,
            away=away,
            short=context is not None and tokens * _MARGIN + (demand.max_tokens or 1) > context,
            fit=self._fit(place),
            context=context,
        )

    def _context(self, place: Place) -> int | None:
        told = place.model.context_length if place.model is not None else None
        limits = (told, self._habits.limit((place.kind, place.name)))
        return min((each for each in limits if each is not None), default=None)

    def _fit(self, place: Place) -> Fit:
        if self._memory is None:
            return "fits"
        size = place.model.size_bytes if place.model is not None else None
        return self._memory.fit((place.kind, place.name), size)
