"""The hybrid put together: for the server, and for programs that do without one."""

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

_PATIENCE = 1.0
"""Seconds that the first answer of each backend is waited for."""
_DEFAULTS = Config()


class Parts(Struct, frozen=True):
    registry: Registry
    memory: SharedBudget
    measurements: Measurements
    router: Router


def assemble(config: Config) -> Parts:
    """What is needed to answer; nothing is opened yet."""
    registry = Registry(config.models, config.server.refresh)
    memory = SharedBudget(config.server.memory_bytes, config.pinned(), config.server.refresh)
    measurements = Measurements(memory.seen)
    pulls = AutoPull(registry, config.server.pull_timeout) if config.server.auto_pull else None
    patience = config.server.fallback_after
    router = Router(registry, measurements, memory, pulls, patience=patience)
    return Parts(registry, memory, measurements, router)


@asynccontextmanager
async def opened(
    parts: Parts, config: Config, backends: Mapping[str, Backend] | None = None
) -> AsyncGenerator[None]:
    """Until the end. Backends that are given are used as they are, and not closed."""
    async with (
        parts.registry.open(config.backend_configs(), backends),
        parts.memory.open(parts.registry.memory_users()),
    ):
        yield


@asynccontextmanager
async def open_router(config: Config = _DEFAULTS) -> AsyncGenerator[Router]:
    """All that the server has behind its endpoints, in this process: the same names, choice,
    fallback and memory budget. To be used by one event loop."""
    parts = assemble(config)
    async with opened(parts, config):
        await parts.registry.refresh(_PATIENCE)
        yield parts.router
