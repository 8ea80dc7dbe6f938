"""`POST /api/route`: explain which backend would answer a chat. Nothing is run or loaded."""

import asyncio
from collections.abc import Iterator
from functools import partial

from litestar import post
from msgspec import Struct

from adapters.errors import BackendError
from proxy.endpoints.generate import to_routed
from proxy.endpoints.openai.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.server_request import ServerRequest
from proxy.memory.budget import SharedBudget
from proxy.models.registry import Deployment, RegisteredModel, Registry
from proxy.openapi import Operation
from proxy.routing.decision import Decision
from proxy.routing.explanation import FITS, lacking, to_reasons, why_not
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
        reasons=[*to_reasons(decision, is_required=bool(excluded)), FITS[first.fit]],
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


def _alternatives(decision: Decision, excluded: list[Deployment]) -> Iterator[Alternative]:
    first = decision.order[0].deployment.backend
    for candidate in decision.order[1:]:
        yield _alternative(candidate.deployment, why_not(candidate, decision))
    for unable in decision.unable:
        yield _alternative(unable.deployment, lacking(unable))
    for deployment in excluded:
        yield _alternative(deployment, f"The request requires {first}.")


def _alternative(deployment: Deployment, why_not: str) -> Alternative:
    return Alternative(backend=deployment.backend, model=deployment.name, why_not=why_not)
