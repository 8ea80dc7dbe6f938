"""Wait for a change on a thread or in a process that sends no event."""

import asyncio
import time
from collections.abc import Callable


async def until(reached: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll `reached`: the thread or process in which it becomes true reports nothing."""
    ends = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > ends:
            raise AssertionError(f"it did not happen within {seconds:.0f} seconds")
        await asyncio.sleep(0.005)
