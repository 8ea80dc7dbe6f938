"""Requests of an engine that hangs, as on a disk that does not respond: they get an error."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from adapters.errors import BackendTimeoutError

_CHECK_SECONDS = 1.0


class StallGuard:
    """Ends what runs in `guarded` while the engine is stalled. Lives on the event loop."""

    def __init__(self, trouble: Callable[[], str | None], stall_seconds: float) -> None:
        """`trouble` describes the stall of the engine; `None` while it goes on."""
        self._trouble = trouble
        self._check_seconds = min(_CHECK_SECONDS, stall_seconds)
        self._guarded: set[asyncio.Timeout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._was_stalled = False

    @asynccontextmanager
    async def guarded(self) -> AsyncGenerator[None]:
        """
        Raises:
            BackendTimeoutError: the engine is stalled, at two checks.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._guarded.add(limit)
                if self._timer is None:
                    self._set_timer()
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BackendTimeoutError(self._trouble() or "MLX was stalled.") from error
        finally:
            self._guarded.discard(limit)

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._check_seconds, self._check)

    def _check(self) -> None:
        self._timer = None
        is_stalled = self._trouble() is not None
        # Once could be a machine that has just been resumed.
        if is_stalled and self._was_stalled:
            for limit in self._guarded:
                if not limit.expired():
                    limit.reschedule(0)
        self._was_stalled = is_stalled
        if self._guarded:
            self._set_timer()
