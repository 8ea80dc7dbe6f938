"""Circuit breaker: leave a failing server alone, test it, and use it again."""

import asyncio
from collections.abc import Awaitable, Callable

from adapters.backend import BreakerState
from adapters.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    BadUpstreamError,
)
from adapters.upstream.limits import DEFAULT_LIMITS, Limits

_MAX_FAULTS = 3

FAULTS = (BackendUnavailableError, BackendTimeoutError, BadUpstreamError)
"""Faults of the server. A full queue is none, nor is a model that cannot be loaded."""


class CircuitBreaker:
    """Opens after three faults in a row; closes after a real answer.

    While it is open, it looks whether the server is there, and if so, requests a token: at once
    where the server was away, otherwise after 5 s, 10 s, … 60 s.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[bool]],
        probe: Callable[[], Awaitable[None]],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """`look` costs the server nothing; `probe` requests a token, and raises BackendError."""
        self._look = look
        self._probe = probe
        self._limits = limits
        self._faults = 0
        self._probing = False
        self._testing: asyncio.Task[None] | None = None
        self.last: BackendError | None = None
        """The latest fault since the last answer."""

    @property
    def is_open(self) -> bool:
        return self._faults >= _MAX_FAULTS

    @property
    def state(self) -> BreakerState:
        if not self.is_open:
            return "closed"
        return "half-open" if self._probing else "open"

    @property
    def absent(self) -> bool:
        """The last fault shows at once: another try costs nothing."""
        return isinstance(self.last, BackendUnavailableError)

    @property
    def is_silent(self) -> bool:
        """The last fault was a timeout, which another try would wait for again."""
        return isinstance(self.last, BackendTimeoutError)

    def succeeded(self) -> None:
        """Close after a complete answer."""
        self._faults, self.last = 0, None

    def heard(self) -> None:
        """Note a response that is no answer: the server is not silent."""
        if not self.is_open:
            self.last = None

    def failed(self, error: BackendError) -> None:
        """Count `error` if it is one of `FAULTS`; the third in a row opens the breaker."""
        if not isinstance(error, FAULTS):
            return
        self._faults += 1
        self.last = error
        if self.is_open and self._testing is None:
            self._testing = asyncio.create_task(self._test())
            self._testing.add_done_callback(self._end_test)

    async def aclose(self) -> None:
        if self._testing is not None:
            self._testing.cancel()
            await asyncio.wait([self._testing])

    def _end_test(self, task: asyncio.Task[None]) -> None:
        self._testing = None
        if not task.cancelled():
            task.exception()

    async def _test(self) -> None:
        clock = asyncio.get_running_loop().time
        wait, was_there = self._limits.first_probe, not self.absent
        due = clock() + wait
        while self.is_open:
            await asyncio.sleep(self._limits.look_every)
            there = await self._look()
            if not there or (was_there and clock() < due):
                was_there = there
                continue
            was_there = True
            if await self._answers():
                self.succeeded()
            wait = min(2 * wait, self._limits.longest_probe)
            due = clock() + wait

    async def _answers(self) -> bool:
        self._probing = True
        try:
            await self._probe()
        except BackendError as error:
            self.last = error
            return False
        finally:
            self._probing = False
        return True
