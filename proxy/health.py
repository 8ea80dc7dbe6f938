"""Reports of the backends' health and memory, read once for concurrent requests and kept a while.

Backends ask their servers, which may be busy with hundreds of answers, or hang. Monitors ask often
and wait briefly: a request for the server's health does not wait for an engine.
"""

import asyncio
import time

from msgspec import Struct

from adapters.backend import Backend, Health
from adapters.errors import BackendError
from proxy.memory.budget import SharedBudget, Snapshot
from proxy.models.registry import Registry

_TIMEOUT = 1.0
"""Seconds that a backend has to report its health, or the memory of its models."""


class HealthReport(Struct, frozen=True):
    backends: dict[str, Health]
    """Health by the backend's name."""
    memory: Snapshot


class HealthReports:
    def __init__(
        self,
        registry: Registry,
        memory: SharedBudget,
        wait_seconds: float = 0.03,
        max_age: float = 5.0,
    ) -> None:
        """`wait_seconds`: the wait for a new report while the last is younger than `max_age`."""
        self._registry = registry
        self._memory = memory
        self._wait_seconds = wait_seconds
        self._max_age = max_age
        self._look: asyncio.Task[HealthReport] | None = None
        """The look in progress, or the last."""
        self._latest: HealthReport | None = None
        self._latest_at = 0.0

    async def report(self) -> HealthReport:
        """Return a new report, or a recent one if reading takes long; callers share the reading."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._read())
        look, latest = self._look, self._recent()
        await asyncio.wait((look,), timeout=None if latest is None else self._wait_seconds)
        return latest if latest is not None and not look.done() else await look

    async def aclose(self) -> None:
        """Cancel the look in progress."""
        if self._look is not None and not self._look.done():
            self._look.cancel()
            await asyncio.wait((self._look,))

    def _recent(self) -> HealthReport | None:
        is_recent = time.monotonic() - self._latest_at < self._max_age
        return self._latest if is_recent else None

    async def _read(self) -> HealthReport:
        backends = self._registry.backends
        reports = asyncio.gather(*(_health(listed.backend) for listed in backends.values()))
        healths, memory = await asyncio.gather(reports, self._memory_now())
        report = HealthReport(dict(zip(backends, healths, strict=True)), memory)
        self._latest, self._latest_at = report, time.monotonic()
        return report

    async def _memory_now(self) -> Snapshot:
        """Return what is in use, or was at the last look where a backend does not respond."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await self._memory.snapshot()
        except (TimeoutError, BackendError):
            return self._memory.last_snapshot()


async def _health(backend: Backend) -> Health:
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await backend.health()
    except TimeoutError:
        return Health(ok=False, detail=f"No response within {_TIMEOUT:g} s.")
