"""Health is reported without waiting for an engine that is busy or hangs."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from fakes.scripted_backend import HANG, ScriptedBackend, http_client

from adapters.backend import Health
from proxy.assembly import assemble, opened
from proxy.config import Config
from proxy.health import HealthReports


async def test_recent_report_stands_in_for_a_backend_that_hangs():
    backend = ScriptedBackend()
    parts = assemble(Config())
    reports = HealthReports(parts.registry, parts.memory, patience=0)
    async with opened(parts, Config(), {"one": backend}):
        first = await reports.report()
        backend.condition = HANG
        assert await reports.report() is first
        await reports.aclose()
    assert first.backends["one"].ok


async def test_old_report_is_replaced_before_the_answer():
    backend = ScriptedBackend()
    parts = assemble(Config())
    reports = HealthReports(parts.registry, parts.memory, patience=0, kept=0)
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
