"""`POST /api/route`: who would answer a chat, and why; nothing is run, loaded or fetched."""

import asyncio
from collections.abc import Callable, Iterator

from litestar import post
from msgspec import Struct

from adapters.errors import BackendError
from adapters.request import GenerationRequest
from proxy.endpoints.openai.chat_completions.handler import blaming, read_chat
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.server_request import ServerRequest
from proxy.memory.budget import SharedBudget
from proxy.memory.ledger import Fit
from proxy.models.registry import Deployment, RegisteredModel, Registry
from proxy.operation import Operation
from proxy.routing.candidates import Candidate
from proxy.routing.decision import Decision, Rule, Unable
from proxy.routing.requirements import to_requirements
from proxy.routing.router import Router

_PATIENCE = 5.0
"""Seconds that a backend has to say what a model takes of the memory."""


class Alternative(Struct, kw_only=True):
    backend: str
    model: str
    """Its own name of the model."""
    why_not: str


class Plan(Struct, kw_only=True):
    backend: str
    model: str
    """The backend's own name of the model."""
    reasons: list[str]
    context: int | None
    """Tokens that prompt and answer may have together; `null`: not known."""
    memory_bytes: int | None
    """What the model takes of this machine's memory, or will; `null`: none, or not known."""
    alternatives: list[Alternative]


_PLAN = Operation(
    summary="Who would answer this chat, and why",
    asks=(ChatCompletionRequest,),
    answers=(Plan,),
    may_force=True,
)

_FITS: dict[Fit, str] = {
    "loaded": "The model is loaded.",
    "fits": "The model has room beside all that is loaded.",
    "evicts": "Idle models would make way for it.",
    "full": "There is no memory for it, and nowhere else either.",
}


@post("/api/route", status_code=200, operation=_PLAN)
async def plan_route(request: ServerRequest) -> Plan:
    router = request.router
    body, asked = await read_chat(request)
    with blaming(body):
        # Before it is decided: what is found out here counts in decisions to come.
        takes = await _takes(request.memory, await router.find(asked.model))
        requirements = to_requirements(asked)
        decision = router.weighed(
            await router.decide(asked.model, requirements, asked), requirements
        )
    left_out = await _left_out(asked.model, request.registry, router)
    first = decision.order[0]
    return Plan(
        backend=first.deployment.backend,
        model=first.deployment.name,
        reasons=list(_reasons(decision, left_out)),
        context=_context(first, asked),
        memory_bytes=takes.get(first.deployment.backend),
        alternatives=[*_alternatives(decision), *_passed_over(left_out, first)],
    )


async def _left_out(model: str, registry: Registry, router: Router) -> list[Deployment]:
    """Where else the model is that the request insists on having from one backend."""
    kind, slash, name = model.partition("/")
    if not slash or kind not in registry.backends:
        return []
    try:
        entry = await router.find(name)
    except BackendError:  # Nobody has it by that name alone.
        return []
    return [deployment for deployment in entry.deployments if deployment.backend != kind]


def _context(first: Candidate, asked: GenerationRequest) -> int | None:
    known = [each for each in (first.context, asked.num_ctx) if each is not None]
    return min(known, default=None)


async def _takes(memory: SharedBudget, entry: RegisteredModel) -> dict[str, int | None]:
    """What a model takes of the memory, by the backend's kind."""
    found = await asyncio.gather(*(_memory(memory, deployment) for deployment in entry.deployments))
    return {
        deployment.backend: nbytes
        for deployment, nbytes in zip(entry.deployments, found, strict=True)
    }


async def _memory(memory: SharedBudget, deployment: Deployment) -> int | None:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await memory.footprint(deployment.backend, deployment.name)
    except (BackendError, TimeoutError):  # The plan holds without it.
        return None


def _reasons(decision: Decision, left_out: list[Deployment]) -> Iterator[str]:
    first = decision.order[0]
    if left_out:
        yield f"The request insists on {first.deployment.backend}."
    else:
        yield _WHY[decision.rule](decision)
    if first.away:
        yield "It did not answer when it was last asked, but nobody else can."
    if first.short:
        yield "Its context seems too short, but nobody has a longer one."
    yield _FITS[first.fit]


def _only(decision: Decision) -> str:
    if not decision.unable:
        return f"Only {decision.order[0].deployment.backend} has the model."
    what = " ".join(_lacking(each) for each in decision.unable)
    return f"Only {decision.order[0].deployment.backend} can honour all that is asked. {what}"


def _lacking(unable: Unable) -> str:
    if unable.refusal is not None:
        return unable.refusal.message
    return f"{unable.deployment.backend} does not honour {', '.join(map(repr, unable.lacks))} here."


def _fastest(decision: Decision) -> str:
    seconds = decision.pick.seconds if decision.pick is not None else {}
    kind = decision.order[0].deployment.backend
    return f"{kind} was measured to be the fastest: about {seconds[kind]:.2g} s."


_WHY: dict[Rule, Callable[[Decision], str]] = {
    "only": _only,
    "ready": lambda it: f"Nothing stands in the way of {it.order[0].deployment.backend}.",
    "preferred": lambda it: f"{it.order[0].deployment.backend} is preferred for this name.",
    "steady": lambda it: f"{it.order[0].deployment.backend} comes first in order.",
    "trial": lambda it: (
        f"{it.order[0].deployment.backend} has to be measured for such prompts first."
    ),
    "fastest": _fastest,
    "kept": lambda it: f"{it.order[0].deployment.backend} has answered such prompts up to now.",
    "order": lambda it: (
        f"Nobody was measured, and {it.order[0].deployment.backend} comes first in order."
    ),
}


def _alternatives(decision: Decision) -> Iterator[Alternative]:
    for candidate in decision.order[1:]:
        yield _alternative(candidate.deployment, _why_not(candidate, decision))
    for each in decision.unable:
        yield _alternative(each.deployment, _lacking(each))


def _passed_over(left_out: list[Deployment], first: Candidate) -> Iterator[Alternative]:
    for deployment in left_out:
        yield _alternative(deployment, f"The request insists on {first.deployment.backend}.")


def _alternative(deployment: Deployment, why_not: str) -> Alternative:
    return Alternative(backend=deployment.backend, model=deployment.name, why_not=why_not)


def _why_not(candidate: Candidate, decision: Decision) -> str:
    """The worst that speaks against it; else the reason that speaks for the first."""
    first = decision.order[0]
    if candidate.away and not first.away:
        return "It did not answer when it was last asked."
    if candidate.short and not first.short:
        return f"Its context of {candidate.context} tokens seems too short."
    if candidate.fit == "full" and first.fit != "full":
        return "There is no memory for it."
    if candidate.fit == "evicts" and decision.rule == "ready":
        return "Idle models would have to make way for it."
    return _slower(candidate, decision) or _WHY[decision.rule](decision)


def _slower(candidate: Candidate, decision: Decision) -> str | None:
    if decision.rule not in ("fastest", "kept") or decision.pick is None:
        return None
    seconds = decision.pick.seconds.get(candidate.deployment.backend)
    if seconds is None:
        return "It was not measured."
    kept = " A change would gain little, or comes too soon." if decision.rule == "kept" else ""
    return f"It would take about {seconds:.2g} s.{kept}"
