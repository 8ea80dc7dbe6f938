"""How long the first line of an answer is waited for."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import Struct

from adapters.errors import BackendTimeoutError

T = TypeVar("T")

_LOOK_SECONDS = 2.0
"""Between two looks at a server that is silent."""
_MISSED_LOOKS = 2
"""In a row: one may be missed by a machine that is very busy."""


class Patience(Struct, frozen=True):
    seconds: float | None = None
    """For the first line, unless the model has to be loaded; `None`: as it is configured, and
    infinite: somebody else decides."""
    elsewhere: bool = False
    """Somebody else could answer: a server that hangs is not waited for."""

    def to_first_line(self, configured: float, *, cold: bool) -> float:
        """`cold`: the model has to be loaded, which takes what it takes."""
        match self.seconds:
            case math.inf:
                return math.inf
            case None:
                return configured
            case seconds:
                return configured if cold else min(seconds, configured)


PATIENT = Patience()


async def unless_hanging(work: Awaitable[T], is_there: Callable[[], Awaitable[bool]]) -> T:
    """The result of `work`, as long as the server that does it says that it is there.

    Raises:
        BackendTimeoutError: it does not, so that nothing can be hoped for.
    """
    timeout = asyncio.timeout(None)
    looking = asyncio.create_task(_end_when_hanging(timeout, is_there))
    try:
        async with timeout:
            return await work
    except TimeoutError:
        if not timeout.expired():
            raise
        raise BackendTimeoutError("Ollama hangs: it does not even say its version.") from None
    finally:
        looking.cancel()


async def _end_when_hanging(work: asyncio.Timeout, is_there: Callable[[], Awaitable[bool]]) -> None:
    missed = 0
    while missed < _MISSED_LOOKS:
        await asyncio.sleep(_LOOK_SECONDS)
        missed = 0 if await is_there() else missed + 1
    work.reschedule(0.0)
