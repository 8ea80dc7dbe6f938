"""Who answers a request, and why: decided in one place, for those who ask and those who run it."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.features import ENGINES
from adapters.request import Feature, GenerationRequest
from proxy.models.registry import Deployment, RegisteredModel, Registry, same_weights
from proxy.routing.by_speed import BySpeed, Choice, Pick
from proxy.routing.candidates import Candidate, Candidates
from proxy.routing.requirements import Requirements

Rule = Literal["only", "ready", "preferred", "steady"] | BySpeed
"""Why the first is the first: nobody else can; the others have obstacles; the config prefers it;
its vectors are the ones that came before; or by what was measured."""

_IN_WORDS: Mapping[Feature, str] = {
    "tokens": "Text as token ids",
    "echo_logprobs": "'echo' together with 'logprobs'",
    "empty_answer": "'max_tokens' of 0",
}
"""The features that are not called as any field is."""


class Unable(Struct, frozen=True, kw_only=True):
    """A place that cannot honour a request."""

    deployment: Deployment
    lacks: tuple[Feature, ...] = ()
    """The features that it lacks; else it refuses what …"""
    refusal: UnsupportedParameterError | None = None
    """… this says."""


class Decision(Struct, frozen=True, kw_only=True):
    entry: RegisteredModel
    order: tuple[Candidate, ...]
    """Those that can answer, the best first; never empty. One that is alone was not weighed."""
    unable: tuple[Unable, ...]
    rule: Rule
    pick: Pick | None = None
    """Where there was something to choose."""


class Decider:
    def __init__(self, registry: Registry, candidates: Candidates, choice: Choice) -> None:
        self._registry = registry
        self._candidates = candidates
        self._choice = choice

    def decide(
        self,
        entry: RegisteredModel,
        requirements: Requirements,
        request: GenerationRequest | None = None,
    ) -> Decision:
        """By what is known: nobody is asked, nothing is begun. `demand` is that of `request`.

        Raises:
            UnsupportedParameterError: no place of `entry` honours all that is asked.
        """
        judged = [
            (deployment, self._unable(deployment, requirements, request))
            for deployment in entry.deployments
        ]
        unable = tuple(each for _, each in judged if each is not None)
        if len(unable) == len(judged):
            raise self._unsupported(entry, unable)
        able = [deployment for deployment, each in judged if each is None]
        order, rule, pick = self._ordered(able, entry.prefer, requirements)
        return Decision(entry=entry, order=order, unable=unable, rule=rule, pick=pick)

    def weighed(self, decision: Decision, requirements: Requirements) -> Decision:
        """With what speaks even against one that is alone, for who wants to know."""
        if decision.rule != "only":
            return decision
        only = self._candidates.weigh(decision.order[0].deployment, requirements)
        return replace(decision, order=(only,))

    def note(self, decision: Decision) -> None:
        """It is acted upon."""
        if decision.pick is not None:
            self._choice.note(decision.pick)

    def _unable(
        self, deployment: Deployment, requirements: Requirements, request: GenerationRequest | None
    ) -> Unable | None:
        """What is not to be had there; a model that tells nothing is trusted."""
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
        except InvalidRequestError:  # Nobody will take it: who is asked will say so.
            pass
        return None

    def _ordered(
        self, deployments: list[Deployment], prefer: str, requirements: Requirements
    ) -> tuple[tuple[Candidate, ...], Rule, Pick | None]:
        """The best first, and why. What speaks against one that is alone changes nothing."""
        if len(deployments) == 1:
            return (Candidate(deployment=deployments[0]),), "only", None
        ranked = self._ranked(deployments, prefer, requirements)
        rule = _rule(ranked, prefer, requirements)
        if rule is not None:
            return tuple(ranked), rule, None
        equals = [each for each in ranked if each.hindrance == ranked[0].hindrance]
        pick = self._choice.pick(equals, requirements)
        return (*pick.order, *ranked[len(equals) :]), pick.rule, pick

    def _ranked(
        self, deployments: list[Deployment], prefer: str, requirements: Requirements
    ) -> list[Candidate]:
        """The best first, as far as that does not depend on speed."""
        weighed = [self._candidates.weigh(deployment, requirements) for deployment in deployments]
        ranked = sorted(weighed, key=lambda candidate: self._rank(candidate, prefer))
        return self._steady(ranked, prefer) if "embeddings" in requirements.features else ranked

    def _rank(
        self, candidate: Candidate, prefer: str
    ) -> tuple[tuple[bool, ...], bool, tuple[bool, ...], int]:
        """Smallest first: who has no obstacle, who is preferred, who costs no other model its
        memory, the order of the backends."""
        kind = candidate.deployment.backend
        order = list(self._registry.backends).index(kind)
        return candidate.obstacles, kind != prefer, candidate.hindrance, order

    def _steady(self, ranked: list[Candidate], prefer: str) -> list[Candidate]:
        """Vectors of other weights cannot be compared: an obstacle moves nobody to those."""
        kinds = list(self._registry.backends)
        home = min(
            ranked,
            key=lambda each: (
                each.deployment.backend != prefer,
                kinds.index(each.deployment.backend),
            ),
        )
        same = [
            each
            for each in ranked
            if each is home or same_weights([home.deployment.model, each.deployment.model])
        ]
        return [*same, *(each for each in ranked if each not in same)]

    def _unsupported(
        self, entry: RegisteredModel, unable: tuple[Unable, ...]
    ) -> UnsupportedParameterError:
        """Of the place that lacks least."""
        nearest = min(unable, key=lambda each: len(each.lacks))
        if nearest.refusal is not None:
            return nearest.refusal
        deployment, feature = nearest.deployment, nearest.lacks[0]
        open_ones = {kind: s.backend.honours for kind, s in self._registry.backends.items()}
        engines = {**ENGINES, **open_ones}
        able = [
            k for k, honours in engines.items() if k != deployment.backend and feature in honours
        ]
        hint = f" A model on {' or '.join(able)} could honour it." if able else ""
        what = _IN_WORDS.get(feature, f"'{feature}'")
        return UnsupportedParameterError(
            f"{what} is not supported for '{entry.id}' on {deployment.backend}.{hint}",
            param=feature,
        )


def _rule(ranked: list[Candidate], prefer: str, requirements: Requirements) -> Rule | None:
    """Why the first of `ranked`, several, is it, where that does not depend on speed."""
    first, *others = ranked
    if all(other.hindrance > first.hindrance for other in others):
        return "ready"
    if first.deployment.backend == prefer:
        return "preferred"
    # Vectors of two engines cannot be compared with each other.
    return "steady" if "embeddings" in requirements.features else None
