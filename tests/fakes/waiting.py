"""For what happens elsewhere, of which no event tells."""

import asyncio
import time
from collections.abc import Callable


async def until(reached: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll: what is waited for happens on a thread, or in a process, that tells nobody."""
    ends = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > ends:
            raise AssertionError(f"it did not happen within {seconds:.0f} seconds")
        await asyncio.sleep(0.005)
