"""Loads on their way: shared by those who meet, watched, and ended when nobody waits any more."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from adapters.backend import Progress
from adapters.errors import BackendError, BackendUnavailableError


class Extras(Struct, frozen=True):
    """What a model has beside the weights of its base: folders."""

    lora: Path | None = None
    draft: Path | None = None


class Loading:
    """How far one load is. The engine's thread reports; the event loop reads, and may end it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = "preparing"
        self.completed = 0
        """Bytes of weights that are in memory."""
        self.total: int | None = None
        self.cancelled = False

    def begin(self, total: int) -> None:
        """The weights, so many bytes of them, are read from here on."""
        self.status, self.total = "loading", total

    def advance(self, nbytes: int) -> None:
        """
        Raises:
            BackendUnavailableError: nobody wants it any more.
        """
        self.completed += nbytes
        self.check()

    def check(self) -> None:
        """As `advance`, between two steps of a load."""
        if self.cancelled:
            raise BackendUnavailableError(f"The load of '{self.name}' was cancelled.")

    def progress(self) -> Progress:
        return Progress(
            status=self.status,
            completed=None if self.total is None else self.completed,
            total=self.total,
        )


class _Load:
    def __init__(self, loading: Loading, task: "asyncio.Task[None]") -> None:
        self.loading = loading
        self.task = task
        self.waiting = 0


class Loads:
    """One load for each model at a time. Lives on the event loop."""

    def __init__(
        self, load: Callable[[Loading], Awaitable[None]], ended: Callable[[str], None]
    ) -> None:
        """`ended` is called with the model's name after each load, however it went."""
        self._load = load
        self._ended = ended
        self._loads: dict[str, _Load] = {}

    async def join(self, name: str) -> None:
        """Wait for the load of `name`, which begins if none is on its way.

        One waiter who leaves stops nothing; when the last one leaves, the load ends at its next
        piece of weights.

        Raises:
            BackendError: what the load raised.
        """
        while (load := self._loads.get(name)) is not None and load.loading.cancelled:
            await asyncio.wait([load.task])
        load = load or self._begin(name)
        load.waiting += 1
        try:
            await asyncio.shield(load.task)
        finally:
            load.waiting -= 1
            if not load.waiting:
                load.loading.cancelled = True

    async def cancel(self, name: str) -> None:
        """End the load of `name`, if there is one: its waiters get an error. Returns afterwards."""
        if (load := self._loads.get(name)) is None:
            return
        load.loading.cancelled = True
        with suppress(BackendError):  # Those who wait are told.
            await asyncio.shield(load.task)

    def progress(self) -> dict[str, Progress]:
        """What is being loaded, by name."""
        return {name: load.loading.progress() for name, load in self._loads.items()}

    def close(self) -> None:
        for load in self._loads.values():
            load.loading.cancelled = True
            load.task.cancel()

    def _begin(self, name: str) -> _Load:
        loading = Loading(name)
        task = asyncio.ensure_future(self._load(loading))
        load = self._loads[name] = _Load(loading, task)
        task.add_done_callback(lambda done: self._end(name, done))
        return load

    def _end(self, name: str, task: "asyncio.Future[None]") -> None:
        del self._loads[name]
        if not task.cancelled():
            # Read here too: those who waited may all have left, and asyncio would complain.
            task.exception()
        self._ended(name)
