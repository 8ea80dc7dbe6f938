"""Memory accounting of an engine in a process of its own: its calls, forwarded."""

from typing import Any, Protocol

from adapters.memory import Footprint, MemoryBudget, Resident, UnlimitedMemory


class Caller(Protocol):
    """The backend, which has the process."""

    @property
    def is_running(self) -> bool: ...

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call `method` of the engine's process, which is started if it is not running."""
        ...

    def budget_changed(self) -> None: ...


class ProcessMemory:
    elastic = True

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.room: MemoryBudget = UnlimitedMemory()
        self.limit: int | None = None
        """Bytes of the latest `confine`, for the next process."""

    def share_budget(self, room: MemoryBudget) -> None:
        self.room = room
        self._caller.budget_changed()

    async def recommended(self) -> int | None:
        return await self._caller.call("recommended")

    async def footprint(self, model: str) -> Footprint | None:
        return await self._caller.call("footprint", model)

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        """List the models of the process; it is not started for that."""
        return await self._caller.call("resident") if self._caller.is_running else []

    async def unload_for_memory(self, model: str) -> None:
        await self._caller.call("unload_for_memory", model)

    async def confine(self, nbytes: int) -> int:
        self.limit = nbytes
        return await self._caller.call("confine", nbytes) if self._caller.is_running else 0
