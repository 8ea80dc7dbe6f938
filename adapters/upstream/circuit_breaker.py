"""When to leave an Ollama alone, and when to try it again."""

import asyncio
from collections.abc import Awaitable, Callable

from adapters.backend import BreakerState
from adapters.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    BadUpstreamError,
)

_IN_A_ROW = 3
_LOOK_SECONDS = 2.0
"""Between two looks whether it is there at all, which costs it nothing."""
_FIRST_WAIT = 5.0
_LONGEST_WAIT = 60.0

FAULTS = (BackendUnavailableError, BackendTimeoutError, BadUpstreamError)
"""What speaks against the server. A full queue does not, nor a model that cannot be loaded."""


class CircuitBreaker:
    """Opens after three faults in a row; closes once a real answer was seen.

    While it is open, somebody looks whether the server is there, and if it is, asks it for a
    token: at once when it was away, and else after 5 s, 10 s, … 60 s.
    """

    def __init__(self, look: Callable[[], Awaitable[bool]], probe: Callable[[], Awaitable[None]]):
        self._look = look
        self._probe = probe
        self._faults = 0
        self._probing = False
        self._testing: asyncio.Task[None] | None = None
        self.last: BackendError | None = None
        """Why it is open, or what speaks against it so far."""

    @property
    def is_open(self) -> bool:
        return self._faults >= _IN_A_ROW

    @property
    def state(self) -> BreakerState:
        if not self.is_open:
            return "closed"
        return "half-open" if self._probing else "open"

    @property
    def absent(self) -> bool:
        """The last fault was one that shows at once: trying costs nothing."""
        return isinstance(self.last, BackendUnavailableError)

    @property
    def is_silent(self) -> bool:
        """The last fault was one that takes its time, and would take it of whoever tries."""
        return isinstance(self.last, BackendTimeoutError)

    def succeeded(self) -> None:
        self._faults, self.last = 0, None

    def heard(self) -> None:
        """It has said something that is no answer: it is not silent, as far as is known."""
        if not self.is_open:
            self.last = None

    def failed(self, error: BackendError) -> None:
        if not isinstance(error, FAULTS):
            return
        self._faults += 1
        self.last = error
        if self.is_open and self._testing is None:
            self._testing = asyncio.create_task(self._test())
            self._testing.add_done_callback(self._tested)

    async def aclose(self) -> None:
        if self._testing is not None:
            self._testing.cancel()
            await asyncio.wait([self._testing])

    def _tested(self, task: asyncio.Task[None]) -> None:
        self._testing = None
        if not task.cancelled():
            task.exception()

    async def _test(self) -> None:
        clock = asyncio.get_running_loop().time
        wait, was_there = _FIRST_WAIT, not self.absent
        due = clock() + wait
        while self.is_open:
            await asyncio.sleep(_LOOK_SECONDS)
            there = await self._look()
            if not there or (was_there and clock() < due):
                was_there = there
                continue
            was_there = True
            if await self._answers():
                self.succeeded()
            wait = min(2 * wait, _LONGEST_WAIT)
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
