"""Memory accounting: backends report usage, the proxy grants reservations.

A backend that takes none (it answers from elsewhere, or has no model) has no `MemoryUser`. All
numbers are bytes; `None` is "not known", never a guess.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from msgspec import Struct


class Footprint(Struct, frozen=True, kw_only=True):
    weights: int | None = None
    context: int | None = None
    """Keys and values: of a model that is not loaded, those of one answer."""

    @property
    def known(self) -> int:
        """What it takes at least."""
        return (self.weights or 0) + (self.context or 0)


class Resident(Struct, frozen=True, kw_only=True):
    """A model that is in memory now, whoever has loaded it."""

    name: str
    also: frozenset[str] = frozenset()
    """Other models of its backend that need no more than it to answer."""
    footprint: Footprint
    cache: int = 0
    """Prompts kept for the next time, which `MemoryUser.confine` makes it forget."""
    busy: bool = False
    """Somebody waits for its answer: it cannot be unloaded."""
    used_at: float = 0.0
    """When it was last used, as far as is known; by `time.monotonic`."""


class MemoryBudget(Protocol):
    """What one backend may take."""

    @property
    def budget(self) -> int | None:
        """For everything that is shared out; `None`: no limit."""
        ...

    def hold(self, model: str, footprint: Footprint) -> AbstractAsyncContextManager[None]:
        """Around a load, or an answer that takes more than its model was loaded with: meanwhile
        that much is set aside. Idle models may have to make way first.

        Raises:
            InsufficientMemoryError: it does not fit beside what is busy or has to stay.
        """
        ...


class UnlimitedMemory:
    """The room of a backend that shares with nobody."""

    budget: int | None = None

    @asynccontextmanager
    async def hold(self, model: str, footprint: Footprint) -> AsyncGenerator[None]:
        yield


class MemoryUser(Protocol):
    """A backend, as far as this machine's memory goes."""

    elastic: bool
    """Contexts and caches grow and shrink while a model stays loaded, as `confine` lets them."""

    def share_budget(self, room: MemoryBudget) -> None:
        """Ask `room` before memory is taken, from here on."""
        ...

    async def recommended(self) -> int | None:
        """What the device says its programs should take at most; `None` where none says so."""
        ...

    async def footprint(self, model: str) -> Footprint | None:
        """What `model` will take once it is loaded, from its files' headers alone. `None`: nothing
        here, or there is no such model."""
        ...

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        """What is loaded here; `fresh`: as it is now, not as it was a second ago. A backend that
        does not answer has nothing."""
        ...

    async def unload_for_memory(self, model: str) -> None:
        """Unload it.

        Raises:
            BackendBusyError: somebody waits for its answer.
        """
        ...

    async def confine(self, nbytes: int) -> int:
        """Contexts and caches of all models may take so much together, from here on.

        Returns what they take: caches have been trimmed to fit, contexts in use never are.
        """
        ...
