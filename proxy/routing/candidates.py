"""The places that can honour a request, and what speaks against each of them all the same."""

from msgspec import Struct

from proxy.memory.budget import SharedBudget
from proxy.memory.ledger import Fit, Key
from proxy.models.registry import Deployment, Registry
from proxy.routing.estimates import Estimates
from proxy.routing.requirements import Requirements

_MARGIN = 1.1
"""A prompt may be longer than it was thought to be."""


class Candidate(Struct, frozen=True, kw_only=True):
    deployment: Deployment
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
        return self.deployment.backend, self.deployment.name

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
    def __init__(
        self, registry: Registry, estimates: Estimates, memory: SharedBudget | None
    ) -> None:
        self._registry = registry
        self._estimates = estimates
        self._memory = memory

    def weigh(self, deployment: Deployment, requirements: Requirements) -> Candidate:
        """By what is known already: nobody is asked."""
        away = self._registry.backends[deployment.backend].is_away(deployment.name)
        if "embeddings" in requirements.features:
            # Vectors of two engines cannot be compared: nothing fleeting decides on them.
            return Candidate(deployment=deployment, away=away)
        tokens = self._estimates.prompt_tokens((deployment.backend, deployment.name), requirements)
        context = self._context(deployment)
        return Candidate(
            deployment=deployment,
            tokens=tokens,
            away=away,
            short=context is not None
            and tokens * _MARGIN + (requirements.max_tokens or 1) > context,
            fit=self._fit(deployment),
            context=context,
        )

    def _context(self, deployment: Deployment) -> int | None:
        told = deployment.model.context_length if deployment.model is not None else None
        limits = (told, self._estimates.limit((deployment.backend, deployment.name)))
        return min((each for each in limits if each is not None), default=None)

    def _fit(self, deployment: Deployment) -> Fit:
        if self._memory is None:
            return "fits"
        size = deployment.model.size_bytes if deployment.model is not None else None
        return self._memory.fit((deployment.backend, deployment.name), size)
