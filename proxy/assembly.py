"""Assemble registry, memory budget, measurements and router, for the server and for programs."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

from adapters.backend import Backend
from proxy.config import Config
from proxy.memory.budget import SharedBudget
from proxy.models.auto_pull import AutoPull
from proxy.models.registry import Registry
from proxy.routing.measurements import Measurements
from proxy.routing.router import Router

_LISTING_SECONDS = 1.0
"""Time that `open_router` waits for the first listing of each backend."""
_DEFAULTS = Config()


class Parts(Struct, frozen=True):
    registry: Registry
    memory: SharedBudget
    measurements: Measurements
    router: Router


def assemble(config: Config) -> Parts:
    """Create the parts; no backend is opened yet."""
    registry = Registry(config.models, config.server.refresh)
    memory = SharedBudget(config.server.memory_bytes, config.pinned(), config.server.refresh)
    measurements = Measurements(memory.last_footprint)
    server = config.server
    pulls = AutoPull(registry, server.pull_timeout, server.auto_pull_hosts)
    patience = config.server.fallback_after
    router = Router(
        registry, measurements, memory, pulls if server.auto_pull else None, patience=patience
    )
    return Parts(registry, memory, measurements, router)


@asynccontextmanager
async def opened(
    parts: Parts, config: Config, backends: Mapping[str, Backend] | None = None
) -> AsyncGenerator[None]:
    """Open the backends of `config`, or use `backends`, by name, which are not closed."""
    async with (
        parts.registry.open(config.backend_configs(), backends),
        parts.memory.open(parts.registry.memory_users()),
    ):
        yield


@asynccontextmanager
async def open_router(config: Config = _DEFAULTS) -> AsyncGenerator[Router]:
    """A router in this process, with the server's names, choice, fallback and memory budget. For
    use by one event loop."""
    parts = assemble(config)
    async with opened(parts, config):
        await parts.registry.refresh(_LISTING_SECONDS)
        yield parts.router
