"""How long the first line of an answer is waited for."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from msgspec import Struct

from adapters.errors import BackendTimeoutError
from adapters.ollama.catalog import full_name

T = TypeVar("T")

_LOOK_SECONDS = 2.0
"""Between two looks at a server that is silent."""
_MISSED_LOOKS = 2
"""In a row: one may be missed by a machine that is very busy."""


class Waiting(Struct, frozen=True):
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


PATIENT = Waiting()


class Work:
    """What a server is doing for others, who may have to wait for it."""

    def __init__(self) -> None:
        self._loads: Counter[str] = Counter()
        """The requests that each model is being loaded for."""
        self._answers = 0
        """Those that have begun."""

    @property
    def is_speaking(self) -> bool:
        return self._answers > 0

    def is_loading(self, model: str) -> bool:
        return self._loads[full_name(model)] > 0

    @contextmanager
    def loading(self, model: str, cold: bool) -> Generator[None]:
        """Until the first line is there, with which it is; nothing where it was not `cold`."""
        self._loads[full_name(model)] += cold
        try:
            yield
        finally:
            self._loads[full_name(model)] -= cold

    @contextmanager
    def speaking(self) -> Generator[None]:
        self._answers += 1
        try:
            yield
        finally:
            self._answers -= 1


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
