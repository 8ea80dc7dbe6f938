"""Memory accounting: backends report usage, the proxy grants reservations.

A backend that uses no memory of this machine (its server is remote, or it has no model) has no
`MemoryUser`. All numbers are bytes; `None` is "unknown", never a guess.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from msgspec import Struct


class Footprint(Struct, frozen=True, kw_only=True):
    """Memory of one model."""

    weights: int | None = None
    context: int | None = None
    """KV cache; for a model that is not loaded, that of one answer."""

    @property
    def known(self) -> int:
        """Lower bound of the total."""
        return (self.weights or 0) + (self.context or 0)


class Resident(Struct, frozen=True, kw_only=True):
    """A model that is in memory now, loaded by Tandem or by another program."""

    name: str
    also: frozenset[str] = frozenset()
    """Other models of the backend that need no memory beyond that of this one."""
    footprint: Footprint
    cache: int = 0
    """Prefix cache, which `MemoryUser.confine` can trim."""
    busy: bool = False
    """True while it answers a request; it cannot be unloaded."""
    used_at: float = 0.0
    """Time of the last use known, by `time.monotonic`."""


class MemoryBudget(Protocol):
    """Memory that one backend may use."""

    @property
    def budget(self) -> int | None:
        """Total of all backends; `None`: no limit."""
        ...

    def hold(self, model: str, footprint: Footprint) -> AbstractAsyncContextManager[None]:
        """Reserve memory during a load, or an answer that exceeds the memory of its model.

        Idle models may be unloaded first.

        Raises:
            InsufficientMemoryError: it does not fit beside models that are busy or must stay.
        """
        ...


class UnlimitedMemory:
    """`MemoryBudget` without a limit."""

    budget: int | None = None

    @asynccontextmanager
    async def hold(self, model: str, footprint: Footprint) -> AsyncGenerator[None]:
        yield


class MemoryUser(Protocol):
    """Memory interface of a backend on this machine."""

    elastic: bool
    """True if contexts and caches of loaded models grow and shrink within `confine`."""

    def share_budget(self, room: MemoryBudget) -> None:
        """Reserve memory from `room` from now on."""
        ...

    async def recommended(self) -> int | None:
        """Return the maximum that the device recommends for all programs; `None` if unknown."""
        ...

    async def footprint(self, model: str) -> Footprint | None:
        """Return the memory of `model` once loaded, estimated from the headers of its files.

        `None`: it uses no memory of this machine, or there is no such model.
        """
        ...

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        """List the loaded models; `fresh` bypasses the cache.

        The list is empty if the backend does not respond.
        """
        ...

    async def unload_for_memory(self, model: str) -> None:
        """Unload `model`.

        Raises:
            BackendBusyError: it answers a request.
        """
        ...

    async def confine(self, nbytes: int) -> int:
        """Limit contexts and caches of all models together to `nbytes` from now on.

        Caches are trimmed to fit, contexts in use are not. Returns their size after that.
        """
        ...
