"""Health is reported without waiting for an engine that is busy or hangs."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes.scripted_backend import HANG, ScriptedBackend, http_client

from adapters.backend import Health
from adapters.errors import BackendUnavailableError
from adapters.memory import Footprint, MemoryBudget, Resident
from proxy.assembly import assemble, opened
from proxy.config import Config
from proxy.health import HealthReports


async def test_recent_report_stands_in_for_a_backend_that_hangs():
    backend = ScriptedBackend()
    parts = assemble(Config())
    reports = HealthReports(parts.registry, parts.memory, wait_seconds=0)
    async with opened(parts, Config(), {"one": backend}):
        first = await reports.report()
        backend.condition = HANG
        assert await reports.report() is first
        await reports.aclose()
    assert first.backends["one"].ok


async def test_old_report_is_replaced_before_the_answer():
    backend = ScriptedBackend()
    parts = assemble(Config())
    reports = HealthReports(parts.registry, parts.memory, wait_seconds=0, max_age=0)
    async with opened(parts, Config(), {"one": backend}):
        await reports.report()
        backend.condition = Health(ok=False, detail="gone")
        assert (await reports.report()).backends["one"].detail == "gone"


async def test_health_needs_no_thread():
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    release = threading.Event()
    async with http_client(ScriptedBackend()) as client:
        blocked = asyncio.create_task(asyncio.to_thread(release.wait))
        try:
            async with asyncio.timeout(30):
                assert (await client.get("/health")).status_code == 200
        finally:
            release.set()
            await blocked


class BrokenMemory:
    """Memory of a backend that has lost its process."""

    elastic = False

    def share_budget(self, room: MemoryBudget) -> None:
        """Nothing is reserved."""

    async def recommended(self) -> int | None:
        return None

    async def footprint(self, model: str) -> Footprint | None:
        return None

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        raise BackendUnavailableError("The process has ended.")

    async def confine(self, nbytes: int) -> int:
        return 0

    async def unload_for_memory(self, model: str) -> None:
        raise NotImplementedError


async def test_health_is_answered_where_a_backend_cannot_tell_its_memory():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        assert (await client.get("/health")).status_code == 200
    backend.memory_user = BrokenMemory()
    async with http_client(backend) as client:
        response = await client.get("/health")
    assert response.status_code == 200
    assert response.json()["memory"]["used"] == 0


@pytest.mark.process
def test_closed_standard_descriptors_are_filled():
    script = (
        "import os; from adapters.descriptors import fill_standard\n"
        "os.close(0); os.close(2); fill_standard()\n"
        "print([os.path.samefile(f'/dev/fd/{n}', os.devnull) for n in (0, 2)])"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"[True, True]\n"
