"""Requests of an engine that hangs, without an engine."""

import asyncio

import pytest
from fakes.waiting import until

from adapters.errors import BackendTimeoutError
from adapters.mlx.stall_guard import StallGuard


class Engine:
    """An engine that hangs for its next `checks`."""

    def __init__(self, checks: int) -> None:
        self.checks = checks
        self.was_asked = 0

    def stall(self) -> str | None:
        self.was_asked += 1
        return "Stalled." if self.was_asked <= self.checks else None


async def hang(guard: StallGuard) -> None:
    async with guard.guarded():
        await asyncio.Event().wait()


async def test_all_requests_are_told_of_a_stall() -> None:
    guard = StallGuard(Engine(checks=1000).stall, stall_seconds=0.01)
    told = await asyncio.gather(*(hang(guard) for _ in range(3)), return_exceptions=True)
    assert [(type(error), str(error)) for error in told] == [(BackendTimeoutError, "Stalled.")] * 3


async def test_a_machine_that_was_resumed_ends_nothing() -> None:
    engine = Engine(checks=1)
    guard = StallGuard(engine.stall, stall_seconds=0.001)
    async with guard.guarded():
        await until(lambda: engine.was_asked >= 5)


async def test_errors_of_a_request_stay_its_own() -> None:
    guard = StallGuard(Engine(checks=0).stall, stall_seconds=1.0)
    with pytest.raises(TimeoutError, match="its own"):
        async with guard.guarded():
            raise TimeoutError("its own")
