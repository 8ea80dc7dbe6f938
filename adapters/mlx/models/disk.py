"""Thread pool for blocking reads of models' files, with a deadline: a network mount may hang."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from adapters.errors import BackendTimeoutError

_THREADS = 4
"""Reads at a time. If all of them hang, only further reads wait: other pools are not used."""
T = TypeVar("T")


class Disk:
    """Runs reads on threads of its own. Its methods are called on the event loop."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: the deadline of `run`."""
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mlx-files")

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work`, and return its result.

        Raises:
            BackendTimeoutError: the disk does not respond in time.
        """
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                return await self.run_without_deadline(work)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BackendTimeoutError(
                f"The disk with the models did not respond within {self._seconds:g} seconds."
            ) from error

    async def run_without_deadline(self, work: Callable[[], T]) -> T:
        """Run `work`, however long it takes, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
