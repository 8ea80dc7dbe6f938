"""`POST /api/route`: explain which backend would answer a chat. Nothing is run or loaded."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

from litestar import post
from msgspec import Struct

from adapters.errors import BackendError
from proxy.endpoints.generate import to_routed
from proxy.endpoints.openai.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.server_request import ServerRequest
from proxy.memory.budget import SharedBudget
from proxy.memory.ledger import Fit
from proxy.models.registry import Deployment, RegisteredModel, Registry
from proxy.openapi import Operation
from proxy.routing.candidates import Candidate
from proxy.routing.decision import Decision, Rule, Unable
from proxy.routing.requirements import to_requirements
from proxy.routing.router import Router

_FOOTPRINT_SECONDS = 5.0
"""Time that a backend has to report the memory of a model."""


class Alternative(Struct, kw_only=True):
    backend: str
    model: str
    """The backend's own name of the model."""
    why_not: str


class Plan(Struct, kw_only=True):
    backend: str
    model: str
    """The backend's own name of the model."""
    reasons: list[str]
    context: int | None
    """Tokens available for prompt and answer together; `null`: not known."""
    memory_bytes: int | None
    """Memory that the model uses on this machine, or will use; `null`: none, or not known."""
    alternatives: list[Alternative]


_PLAN = Operation(
    summary="Which backend would answer this chat, and why",
    asks=(ChatCompletionRequest,),
    answers=(Plan,),
    may_force=True,
)

_FITS: dict[Fit, str] = {
    "loaded": "The model is loaded.",
    "fits": "The model fits in memory beside all loaded models.",
    "evicts": "Idle models would be unloaded for it.",
    "full": "There is no memory for it, nor on any alternative.",
}


@post("/api/route", status_code=200, operation=_PLAN)
async def plan_route(request: ServerRequest) -> Plan:
    router = request.router
    parse = partial(CHAT_COMPLETIONS.parse, request)
    call = await request.parse(await request.read_body(), parse)
    try:
        (chat,) = await request.finish(to_routed(request, call))
        # Before the decision, which takes the footprints into account.
        footprints = await _footprints(request.memory, await router.find(chat.model))
        requirements = to_requirements(chat)
        decision = router.weighed(await router.decide(chat.model, requirements, chat), requirements)
    except BackendError as exc:
        exc.param = CHAT_COMPLETIONS.to_param(exc.param, call.body)
        raise
    excluded = await _excluded(chat.model, request.registry, router)
    first = decision.order[0]
    contexts = [context for context in (first.context, chat.num_ctx) if context is not None]
    return Plan(
        backend=first.deployment.backend,
        model=first.deployment.name,
        reasons=list(_reasons(decision, excluded)),
        context=min(contexts, default=None),
        memory_bytes=footprints.get(first.deployment.backend),
        alternatives=list(_alternatives(decision, excluded)),
    )


async def _excluded(model: str, registry: Registry, router: Router) -> list[Deployment]:
    """The deployments on other backends than the one that the request requires."""
    backend, slash, name = model.partition("/")
    if not slash or backend not in registry.backends:
        return []
    try:
        entry = await router.find(name)
    except BackendError:  # No model has that name without the prefix.
        return []
    return [deployment for deployment in entry.deployments if deployment.backend != backend]


async def _footprints(memory: SharedBudget, entry: RegisteredModel) -> dict[str, int | None]:
    """The memory of a model in bytes, by backend."""

    async def footprint(deployment: Deployment) -> int | None:
        try:
            async with asyncio.timeout(_FOOTPRINT_SECONDS):
                return await memory.footprint(deployment.backend, deployment.name)
        except (BackendError, TimeoutError):  # The plan is valid without it.
            return None

    sizes = await asyncio.gather(*map(footprint, entry.deployments))
    return {
        deployment.backend: size for deployment, size in zip(entry.deployments, sizes, strict=True)
    }


def _reasons(decision: Decision, excluded: list[Deployment]) -> Iterator[str]:
    first = decision.order[0]
    if excluded:
        yield f"The request requires {first.deployment.backend}."
    else:
        yield _WHY[decision.rule](decision)
    if first.away:
        yield "It did not respond last time, but there is no alternative."
    if first.short:
        yield "Its context seems too short, but no alternative has a longer one."
    yield _FITS[first.fit]


def _only(decision: Decision) -> str:
    if not decision.unable:
        return f"Only {_first(decision)} has the model."
    reasons = " ".join(map(_lacking, decision.unable))
    return f"Only {_first(decision)} supports this request. {reasons}"


def _lacking(unable: Unable) -> str:
    if unable.refusal is not None:
        return unable.refusal.message
    features = ", ".join(map(repr, unable.lacks))
    return f"{unable.deployment.backend} does not support {features} with this model."


def _fastest(decision: Decision) -> str:
    seconds = decision.choice.seconds if decision.choice is not None else {}
    backend = _first(decision)
    return f"{backend} is the fastest by measurements: about {seconds[backend]:.2g} s."


def _first(decision: Decision) -> str:
    return decision.order[0].deployment.backend


_WHY: dict[Rule, Callable[[Decision], str]] = {
    "only": _only,
    "ready": lambda it: f"{_first(it)} has no obstacle.",
    "preferred": lambda it: f"{_first(it)} is preferred for this name.",
    "steady": lambda it: f"{_first(it)} comes first in order.",
    "trial": lambda it: f"{_first(it)} has to be measured for such prompts first.",
    "fastest": _fastest,
    "kept": lambda it: f"{_first(it)} has answered such prompts so far.",
    "order": lambda it: f"No backend is measured, and {_first(it)} comes first in order.",
}


def _alternatives(decision: Decision, excluded: list[Deployment]) -> Iterator[Alternative]:
    for candidate in decision.order[1:]:
        yield _alternative(candidate.deployment, _why_not(candidate, decision))
    for unable in decision.unable:
        yield _alternative(unable.deployment, _lacking(unable))
    for deployment in excluded:
        yield _alternative(deployment, f"The request requires {_first(decision)}.")


def _alternative(deployment: Deployment, why_not: str) -> Alternative:
    return Alternative(backend=deployment.backend, model=deployment.name, why_not=why_not)


def _why_not(candidate: Candidate, decision: Decision) -> str:
    """The most serious obstacle; without one, the reason for the first candidate."""
    first = decision.order[0]
    if candidate.away and not first.away:
        return "It did not respond last time."
    if candidate.short and not first.short:
        return f"Its context of {candidate.context} tokens seems too short."
    if candidate.fit == "full" and first.fit != "full":
        return "There is no memory for it."
    if candidate.fit == "evicts" and decision.rule == "ready":
        return "Idle models would have to be unloaded for it."
    if decision.rule not in ("fastest", "kept") or decision.choice is None:
        return _WHY[decision.rule](decision)
    seconds = decision.choice.seconds.get(candidate.deployment.backend)
    if seconds is None:
        return "It is not measured."
    kept = " A change would gain little, or is too soon." if decision.rule == "kept" else ""
    return f"It would take about {seconds:.2g} s.{kept}"
