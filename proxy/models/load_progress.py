"""A load that says how far it is while it goes on."""

import asyncio
from collections.abc import AsyncGenerator

from adapters.backend import Backend, Progress

_SECONDS = 0.1
"""Between two looks."""


async def load(
    backend: Backend, name: str, keep_alive: float | None = None
) -> AsyncGenerator[Progress]:
    """Load `name` and tell how far it is, where that has changed; `success` comes last.

    Closing it gives the load up, unless somebody else waits for it too.

    Raises:
        BackendError: as `Backend.load`.
    """
    task = asyncio.create_task(backend.load(name, keep_alive))
    told = None
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_SECONDS)
            progress = backend.loading().get(name)
            if progress is not None and progress != told:
                told = progress
                yield progress
        await task
        yield Progress(status="success")
    finally:
        task.cancel()
