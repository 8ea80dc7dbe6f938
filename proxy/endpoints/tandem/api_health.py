"""`GET /api/health`: as `/health`, including `mlx` and `ollama` when they are switched off."""

from collections.abc import Collection
from typing import Any, Literal

from litestar import get
from msgspec import Struct
from msgspec.structs import asdict

from adapters.backend import Health
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.health import StoredHealth, to_health
from proxy.memory.budget import Snapshot
from proxy.openapi import Operation

_OFF = Health(ok=False, detail="The backend is switched off in the configuration.")

Status = Literal["ok", "degraded", "unavailable", "draining"]


class HybridHealth(Struct, kw_only=True):
    status: Status
    """`ok`: all backends that are switched on are healthy; `degraded`: some are."""
    version: str
    backends: dict[str, Health]
    """Health by the backend's name; `detail` is the reason why it is not healthy."""
    memory: Snapshot
    fallbacks: dict[str, dict[str, int]]
    """Name of the failed backend -> error code -> requests that fell back to another backend."""
    stored: StoredHealth | None
    """`None` where `server.store` is false."""


def to_status(healths: Collection[Health]) -> Status:
    """The status of the backends that are switched on, together."""
    healthy = [health for health in healths if health.ok]
    if not healthy:
        return "unavailable"
    return "ok" if len(healthy) == len(healths) else "degraded"


@get(
    "/api/health",
    operation=Operation(summary="Health of all backends, with reasons", answers=(HybridHealth,)),
)
async def get_hybrid_health(request: ServerRequest) -> HybridHealth:
    health = await to_health(request)
    fields: dict[str, Any] = asdict(health)
    fields["backends"] = {"mlx": _OFF, "ollama": _OFF} | health.backends
    if health.status != "draining":
        fields["status"] = to_status(health.backends.values())
    return HybridHealth(**fields)
