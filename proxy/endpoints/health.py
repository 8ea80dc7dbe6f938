"""`GET /health`: alive as long as it answers; what the backends are is in the body."""

import asyncio
from importlib.metadata import version
from typing import Literal

from litestar import get
from litestar.di import NamedDependency
from msgspec import Struct

from adapters.backend import Backend, Health
from proxy.http.streaming import Drain
from proxy.memory import Memory, Snapshot
from proxy.operation import Operation
from proxy.registry import Registry
from proxy.routing.router import Router

_PATIENCE = 1.0
"""Seconds a backend has to say how it is."""


class ServerHealth(Struct):
    status: Literal["ok", "draining"]
    version: str
    backends: dict[str, Health]
    memory: Snapshot
    fallbacks: dict[str, dict[str, int]]
    """The kind that failed -> the error's code -> how often another was asked instead."""


async def _ask(backend: Backend) -> Health:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await backend.health()
    except TimeoutError:
        return Health(ok=False, detail=f"It said nothing for {_PATIENCE:g} s.")


@get(
    "/health",
    operation=Operation(summary="How the server and its engines are", answers=(ServerHealth,)),
)
async def get_health(
    registry: NamedDependency[Registry],
    router: NamedDependency[Router],
    memory: NamedDependency[Memory],
    drain: NamedDependency[Drain],
) -> ServerHealth:
    return await tell_health(registry, router, memory, drain)


async def tell_health(
    registry: Registry, router: Router, memory: Memory, drain: Drain
) -> ServerHealth:
    kinds = list(registry.shelves)
    asked = asyncio.gather(*(_ask(registry.shelves[kind].backend) for kind in kinds))
    answers, snapshot = await asyncio.gather(asked, memory.snapshot())
    status = "draining" if drain.began else "ok"
    told = dict(zip(kinds, answers, strict=True))
    counts = router.fallbacks.counts()
    return ServerHealth(status, version("tandem-proxy"), told, snapshot, counts)
