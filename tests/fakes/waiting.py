"""The pauses of tests: for a change that sends no event, and of a peer that is slow on purpose."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

_POLL = 0.005
"""Seconds between two looks."""


async def until(reached: Callable[[], bool | Awaitable[bool]], seconds: float = 20.0) -> None:
    """Poll `reached`: the thread, process or socket in which it becomes true reports nothing.

    Raises:
        AssertionError: it is still false after `seconds`.
    """
    ends = time.monotonic() + seconds
    while not await _value(reached()):
        if time.monotonic() > ends:
            raise AssertionError(f"it did not happen within {seconds:.0f} seconds")
        await asyncio.sleep(_POLL)


def until_now(reached: Callable[[], bool], seconds: float = 20.0, every: float = _POLL) -> None:
    """Poll `reached` without an event loop, as `until` does with one."""
    ends = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > ends:
            raise AssertionError(f"it did not happen within {seconds:.0f} seconds")
        time.sleep(every)


async def _value(found: bool | Awaitable[bool]) -> bool:
    return await found if inspect.isawaitable(found) else found


async def settled(read: Callable[[], int]) -> int:
    """Return `read()` once it has stayed the same for a while: its writer waits for a reader."""
    before = -1
    while before != (before := read()):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return before


async def pause(seconds: float) -> None:
    """Delay a scripted server, client or model: the test is about its slowness."""
    await asyncio.sleep(seconds)


async def turns(count: int = 10) -> None:
    """Let the tasks of the event loop run for `count` turns, without any time."""
    for _ in range(count):
        await asyncio.sleep(0)
