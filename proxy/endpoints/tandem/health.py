"""`GET /health`: alive as long as it answers; what the backends are is in the body."""

import asyncio
from importlib.metadata import version
from typing import Literal

from litestar import get
from msgspec import Struct

from adapters.backend import Backend, Health
from proxy.endpoints.server_request import ServerRequest
from proxy.memory.budget import Snapshot
from proxy.openapi import Operation

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
async def get_health(request: ServerRequest) -> ServerHealth:
    return await tell_health(request)


async def tell_health(request: ServerRequest) -> ServerHealth:
    backends = request.registry.backends
    asked = asyncio.gather(*(_ask(listed.backend) for listed in backends.values()))
    answers, snapshot = await asyncio.gather(asked, request.memory.snapshot())
    status = "draining" if request.grace.began else "ok"
    told = dict(zip(list(backends), answers, strict=True))
    counts = request.router.fallbacks.counts()
    return ServerHealth(status, version("tandem-proxy"), told, snapshot, counts)
