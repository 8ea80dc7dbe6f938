"""`GET /health`: always 200 while the server runs; the body has the health of each backend.

`GET /livez` says only that the server runs, and needs no key.
"""

from importlib.metadata import version
from typing import Literal

from litestar import get
from msgspec import Struct
from msgspec.structs import replace

from adapters.backend import Health
from proxy.endpoints.server_request import ServerRequest
from proxy.memory.budget import Snapshot
from proxy.openapi import Operation
from proxy.stored.store import Store

_VERSION = version("tandem-proxy")
"""Read once: it is in a file, and no descriptor may be left for one."""


class StoredHealth(Struct):
    """Health of the stored answers: whether the latest one could be written and read."""

    ok: bool
    detail: str | None = None


class ServerHealth(Struct):
    status: Literal["ok", "draining"]
    version: str
    backends: dict[str, Health]
    """Health by the backend's name."""
    memory: Snapshot
    fallbacks: dict[str, dict[str, int]]
    """Name of the failed backend -> error code -> requests that fell back to another backend."""
    stored: StoredHealth | None
    """`None` where `server.store` is false."""


class Liveness(Struct):
    status: Literal["ok"] = "ok"


@get(
    "/livez",
    operation=Operation(summary="The server runs; needs no key", answers=(Liveness,)),
    access="public",
)
async def get_liveness() -> Liveness:
    return Liveness()


@get(
    "/health",
    operation=Operation(summary="Health of the server and its backends", answers=(ServerHealth,)),
)
async def get_health(request: ServerRequest) -> ServerHealth:
    return await to_health(request)


async def to_health(request: ServerRequest) -> ServerHealth:
    report = await request.health.report()
    return ServerHealth(
        status="draining" if request.grace.began else "ok",
        version=_VERSION,
        backends=report.backends,
        memory=_usable(report.memory, request),
        fallbacks=request.router.fallbacks.counts(),
        stored=_to_stored(request.store),
    )


def _to_stored(store: Store | None) -> StoredHealth | None:
    return None if store is None else StoredHealth(store.failure is None, store.failure)


def _usable(snapshot: Snapshot, request: ServerRequest) -> Snapshot:
    """Leave out the models that the request may not use."""
    allows = request.grant.allows
    models = [m for m in snapshot.models if allows((m.model, f"{m.backend}/{m.model}"))]
    return replace(snapshot, models=tuple(models))
