"""`GET /api/health`: as `/health`, with both engines in it whether they are on or off."""

from collections.abc import Collection
from typing import Any, Literal

from litestar import get
from msgspec import Struct
from msgspec.structs import asdict

from adapters.backend import Health
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.health import tell_health
from proxy.memory.budget import Snapshot
from proxy.openapi import Operation

_OFF = Health(ok=False, detail="It is switched off in the configuration.")

Status = Literal["ok", "degraded", "unavailable", "draining"]


class HybridHealth(Struct, kw_only=True):
    status: Status
    """`ok`: all engines that are switched on are well; `degraded`: some of them."""
    version: str
    backends: dict[str, Health]
    """By kind; `detail` says why one is not well."""
    memory: Snapshot
    fallbacks: dict[str, dict[str, int]]
    """The kind that failed -> the error's code -> how often another was asked instead."""


def to_status(conditions: Collection[Health]) -> Status:
    """Of the engines that are switched on."""
    well = [each for each in conditions if each.ok]
    if not well:
        return "unavailable"
    return "ok" if len(well) == len(conditions) else "degraded"


@get(
    "/api/health",
    operation=Operation(summary="How both engines are, and why", answers=(HybridHealth,)),
)
async def get_hybrid_health(request: ServerRequest) -> HybridHealth:
    told = await tell_health(request)
    fields: dict[str, Any] = asdict(told)
    fields["backends"] = {"mlx": _OFF, "ollama": _OFF} | told.backends
    if told.status != "draining":
        fields["status"] = to_status(told.backends.values())
    return HybridHealth(**fields)
