"""Load a model and report progress."""

import asyncio
from collections.abc import AsyncGenerator

from adapters.backend import Backend, Progress

_POLL_SECONDS = 0.1


async def load(
    backend: Backend, name: str, keep_alive: float | None = None
) -> AsyncGenerator[Progress]:
    """Load `name` and yield the progress when it changes, then `success`.

    Closing the generator cancels the load unless other requests wait for it.

    Raises:
        BackendError: as `Backend.load`.
    """
    task = asyncio.create_task(backend.load(name, keep_alive))
    latest = None
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_POLL_SECONDS)
            progress = backend.loading().get(name)
            if progress is not None and progress != latest:
                latest = progress
                yield progress
        await task
        yield Progress(status="success")
    finally:
        task.cancel()
