"""Decide which backend answers a request, and why.

The router acts on a decision; `POST /api/route` explains it.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.features import ENGINES
from adapters.request import Feature, GenerationRequest
from proxy.models.registry import Deployment, RegisteredModel, Registry, same_weights
from proxy.routing.by_speed import SpeedChoice, SpeedChooser, SpeedRule
from proxy.routing.candidates import Candidate, Candidates
from proxy.routing.requirements import Requirements

Rule = Literal["only", "ready", "preferred", "steady"] | SpeedRule
"""The reason for the first candidate: there is no other; the others have obstacles; the config
prefers it; earlier vectors are from it; or by speed."""

_IN_WORDS: Mapping[Feature, str] = {
    "tokens": "Text as token ids",
    "embedding_tokens": "An input of token ids",
    "echo_logprobs": "'echo' together with 'logprobs'",
    "empty_answer": "'max_tokens' of 0",
    "options": "An option of Ollama's engine",
}
"""The features that are not named after a field."""
_ABILITIES: Mapping[Feature, str] = {
    "tools": "tools",
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
    "reasoning_effort": "thinking",
    "suffix": "insert",
    "images": "images",
    "embeddings": "embeddings",
}
"""Features that a model has or lacks, in the words of Ollama, which clients look for in errors."""
_HINTS: Mapping[Feature, str] = {
    "embedding_tokens": "Send text: in LangChain's OpenAIEmbeddings set "
    "check_embedding_ctx_length=False, as its ids are of a tokenizer that no local model has. "
    "Where clients do use the model's tokenizer, an mlx backend takes ids with "
    "`embedding_token_ids: true`.",
}
"""Advice for the features that another engine alone does not bring."""


class Unable(Struct, frozen=True, kw_only=True):
    """A deployment that cannot honour a request, and why."""

    deployment: Deployment
    lacks: tuple[Feature, ...] = ()
    """The required features that it lacks; if empty, there is a `refusal`."""
    refusal: UnsupportedParameterError | None = None
    """The backend's error for the combination of features."""


class Decision(Struct, frozen=True, kw_only=True):
    entry: RegisteredModel
    order: tuple[Candidate, ...]
    """The candidates, the best first; never empty. A single one was not assessed."""
    unable: tuple[Unable, ...]
    rule: Rule
    choice: SpeedChoice | None = None
    """Set if speed decided."""


class Decider:
    def __init__(self, registry: Registry, candidates: Candidates, by_speed: SpeedChooser) -> None:
        self._registry = registry
        self._candidates = candidates
        self._by_speed = by_speed

    def decide(
        self,
        entry: RegisteredModel,
        requirements: Requirements,
        request: GenerationRequest | None = None,
    ) -> Decision:
        """Decide by what is known, without I/O. `requirements` are those of `request`.

        Raises:
            UnsupportedParameterError: no deployment of `entry` honours the request.
        """
        able: list[Deployment] = []
        unable: list[Unable] = []
        for deployment in entry.deployments:
            reason = self._unable(deployment, requirements, request)
            if reason is None:
                able.append(deployment)
            else:
                unable.append(reason)
        if not able:
            raise self._unsupported(entry, unable)
        order, rule, choice = self._ordered(able, entry.prefer, requirements)
        return Decision(entry=entry, order=order, unable=tuple(unable), rule=rule, choice=choice)

    def weighed(self, decision: Decision, requirements: Requirements) -> Decision:
        """`decision` with a single candidate assessed as well, to be explained."""
        if decision.rule != "only":
            return decision
        only = self._candidates.weigh(decision.order[0].deployment, requirements)
        return replace(decision, order=(only,))

    def note(self, decision: Decision) -> None:
        """Record that a request follows `decision`."""
        if decision.choice is not None:
            self._by_speed.note(decision.choice)

    def _unable(
        self, deployment: Deployment, requirements: Requirements, request: GenerationRequest | None
    ) -> Unable | None:
        """Why the deployment cannot honour the request. A model that is not listed is trusted."""
        backend = self._registry.backends[deployment.backend].backend
        missing = deployment.model.lacks if deployment.model else frozenset[Feature]()
        lacks = (requirements.features - backend.honours) | (requirements.features & missing)
        if lacks:
            return Unable(deployment=deployment, lacks=tuple(sorted(lacks)))
        try:
            if request is not None:
                backend.check(request)
        except UnsupportedParameterError as error:
            return Unable(deployment=deployment, refusal=error)
        except InvalidRequestError:  # Invalid on all backends: the one that is used reports it.
            pass
        return None

    def _ordered(
        self, deployments: list[Deployment], prefer: str, requirements: Requirements
    ) -> tuple[tuple[Candidate, ...], Rule, SpeedChoice | None]:
        """The best first, and why. Obstacles to a single candidate change nothing."""
        if len(deployments) == 1:
            return (Candidate(deployment=deployments[0]),), "only", None
        ranked = self._ranked(deployments, prefer, requirements)
        rule = _rule(ranked, prefer, requirements)
        if rule is not None:
            return tuple(ranked), rule, None
        equal = [
            candidate for candidate in ranked if candidate.all_obstacles == ranked[0].all_obstacles
        ]
        choice = self._by_speed.choose(equal, requirements)
        return (*choice.order, *ranked[len(equal) :]), choice.rule, choice

    def _ranked(
        self, deployments: list[Deployment], prefer: str, requirements: Requirements
    ) -> list[Candidate]:
        """The best first, regardless of speed: by obstacles, preference, evictions, and the order
        of the backends."""
        order = list(self._registry.backends)

        def rank(candidate: Candidate) -> tuple[tuple[bool, ...], bool, tuple[bool, ...], int]:
            backend = candidate.deployment.backend
            return (
                candidate.obstacles,
                backend != prefer,
                candidate.all_obstacles,
                order.index(backend),
            )

        candidates = [
            self._candidates.weigh(deployment, requirements) for deployment in deployments
        ]
        ranked = sorted(candidates, key=rank)
        return self._steady(ranked, prefer) if "embeddings" in requirements.features else ranked

    def _steady(self, ranked: list[Candidate], prefer: str) -> list[Candidate]:
        """For embeddings: the preferred backend and those with the same weights first, whatever
        the obstacles. Vectors of other weights are not comparable."""
        order = list(self._registry.backends)
        home = min(
            (candidate.deployment for candidate in ranked),
            key=lambda deployment: (deployment.backend != prefer, order.index(deployment.backend)),
        )
        same = [
            candidate
            for candidate in ranked
            if candidate.deployment is home
            or same_weights([home.model, candidate.deployment.model])
        ]
        return [*same, *(candidate for candidate in ranked if candidate not in same)]

    def _unsupported(
        self, entry: RegisteredModel, unable: list[Unable]
    ) -> UnsupportedParameterError:
        """The error for the deployment that lacks the fewest features."""
        nearest = min(unable, key=lambda reason: len(reason.lacks))
        if nearest.refusal is not None:
            return nearest.refusal
        backend, feature = nearest.deployment.backend, nearest.lacks[0]
        return UnsupportedParameterError(
            f"{_refusal(feature, entry.id)} on {backend}.{self._hint(feature, nearest.deployment)}",
            param=feature,
        )

    def _hint(self, feature: Feature, deployment: Deployment) -> str:
        """Say what would honour `feature`, which `deployment` does not."""
        backend, model = deployment.backend, deployment.model
        if model is not None and (extra := model.extras.get(feature)) is not None:
            return f" Install it with the extra: pip install '{extra}'."
        if feature in _HINTS:
            return f" {_HINTS[feature]}"
        honouring = self._honouring(feature)
        if backend in honouring:
            return " This model lacks it; another model may have it."
        return f" A model on {' or '.join(honouring)} could honour it." if honouring else ""

    def _honouring(self, feature: Feature) -> list[str]:
        """The backends that honour `feature` on some model, and the kinds that are switched off."""
        backends = {name: each.backend for name, each in self._registry.backends.items()}
        kinds = {backend.kind for backend in backends.values()}
        absent = {kind: honours for kind, honours in ENGINES.items() if kind not in kinds}
        honours = absent | {name: backend.honours for name, backend in backends.items()}
        return [name for name, features in honours.items() if feature in features]


def _refusal(feature: Feature, model: str) -> str:
    if feature in _ABILITIES:
        return f"'{model}' does not support {_ABILITIES[feature]}"
    what = _IN_WORDS.get(feature, f"'{feature}'")
    return f"{what} is not supported for '{model}'"


def _rule(ranked: list[Candidate], prefer: str, requirements: Requirements) -> Rule | None:
    """Why the first of several candidates is first; `None` if that depends on speed."""
    first, *others = ranked
    if all(other.all_obstacles > first.all_obstacles for other in others):
        return "ready"
    if first.deployment.backend == prefer:
        return "preferred"
    # Vectors of two engines are not comparable with each other.
    return "steady" if "embeddings" in requirements.features else None
