"""Candidates: the deployments that can honour a request, and the obstacles to each of them."""

from msgspec import Struct

from proxy.memory.budget import SharedBudget
from proxy.memory.ledger import Fit, Key
from proxy.models.registry import Deployment, Registry
from proxy.routing.estimates import Estimates
from proxy.routing.requirements import Requirements

_MARGIN = 1.1
"""Factor for prompts, which may be longer than estimated."""


class Candidate(Struct, frozen=True, kw_only=True):
    deployment: Deployment
    tokens: int = 0
    """Estimated tokens of the prompt there; 0 where that does not matter."""
    away: bool = False
    """The backend is unreachable or keeps failing. It is tried last."""
    short: bool = False
    """The context seems too short for prompt and answer. Only the backend knows exactly, so the
    candidate may be tried."""
    fit: Fit = "fits"
    context: int | None = None
    """Tokens available for prompt and answer together, if known."""

    @property
    def key(self) -> Key:
        return self.deployment.backend, self.deployment.name

    @property
    def evicts_nothing(self) -> bool:
        """True if no other model has to be unloaded for it."""
        return self.fit in ("loaded", "fits")

    @property
    def obstacles(self) -> tuple[bool, bool, bool]:
        """The most serious first: the candidate with the smallest tuple comes first."""
        return self.away, self.short, self.fit == "full"

    @property
    def all_obstacles(self) -> tuple[bool, ...]:
        """`obstacles`, and the one that counts only if no backend is preferred."""
        return *self.obstacles, not self.evicts_nothing


class Candidates:
    def __init__(
        self, registry: Registry, estimates: Estimates, memory: SharedBudget | None
    ) -> None:
        self._registry = registry
        self._estimates = estimates
        self._memory = memory

    def weigh(self, deployment: Deployment, requirements: Requirements) -> Candidate:
        """Assess a deployment by what is known already. No I/O."""
        key = (deployment.backend, deployment.name)
        away = self._registry.backends[deployment.backend].is_away(deployment.name)
        if "embeddings" in requirements.features:
            # Vectors of two engines are not comparable: no transient condition decides on them.
            return Candidate(deployment=deployment, away=away)
        model = deployment.model
        declared = model.context_length if model is not None else None
        limits = [limit for limit in (declared, self._estimates.limit(key)) if limit is not None]
        context = min(limits, default=None)
        tokens = self._estimates.prompt_tokens(key, requirements)
        needed = tokens * _MARGIN + (requirements.max_tokens or 1)
        size = model.size_bytes if model is not None else None
        return Candidate(
            deployment=deployment,
            tokens=tokens,
            away=away,
            short=context is not None and needed > context,
            fit=self._memory.fit(key, size) if self._memory is not None else "fits",
            context=context,
        )
