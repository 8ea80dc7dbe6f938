"""Deadlines for the first line of a response, and detection of servers that hang."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import Struct

from adapters.errors import BackendTimeoutError

T = TypeVar("T")

_MAX_MISSED_LOOKS = 2
"""In a row: a machine under load may miss one."""


class Deadline(Struct, frozen=True):
    """The time that a request waits for the first line of its response."""

    seconds: float | None = None
    """Unless the model has to be loaded; `None`: as configured; infinite: the caller decides."""
    elsewhere: bool = False
    """Another server, or backend, could answer: one that hangs is given up."""

    def to_first_line(self, configured: float, *, cold: bool) -> float:
        """Return the seconds to wait; a load (`cold`) may take all that is `configured`."""
        match self.seconds:
            case math.inf:
                return math.inf
            case None:
                return configured
            case seconds:
                return configured if cold else min(seconds, configured)


AS_CONFIGURED = Deadline()


async def unless_hanging(
    work: Awaitable[T], is_there: Callable[[], Awaitable[bool]], every: float, message: str
) -> T:
    """Return the result of `work`; look at its server `every` so many seconds until then.

    Raises:
        BackendTimeoutError: with `message`; the server missed two looks in a row.
    """
    limit = asyncio.timeout(None)
    looking = asyncio.create_task(_expire_when_hanging(limit, is_there, every))
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise BackendTimeoutError(message) from None
    finally:
        looking.cancel()


async def _expire_when_hanging(
    limit: asyncio.Timeout, is_there: Callable[[], Awaitable[bool]], every: float
) -> None:
    missed = 0
    while missed < _MAX_MISSED_LOOKS:
        await asyncio.sleep(every)
        missed = 0 if await is_there() else missed + 1
    limit.reschedule(0.0)
