"""Running loads: shared by concurrent callers, observed, and cancelled without callers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from adapters.backend import Progress
from adapters.errors import BackendBusyError, BackendError, BackendUnavailableError


class Extras(Struct, frozen=True):
    """The folders of a model beside its base: LoRA adapters, a draft model."""

    lora: Path | None = None
    draft: Path | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.lora, self.draft) if path is not None)


class Loading:
    """Progress of one load: the engine's thread reports, the event loop reads and may cancel."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = "preparing"
        self.completed = 0
        """Bytes of weights in memory."""
        self.total: int | None = None
        self.cancelled = False

    def begin(self, total: int) -> None:
        """Start the phase that reads `total` bytes of weights."""
        self.status, self.total = "loading", total

    def advance(self, nbytes: int) -> None:
        """Count bytes that were read.

        Raises:
            BackendUnavailableError: the load was cancelled.
        """
        self.completed += nbytes
        self.check()

    def check(self) -> None:
        """Raise as `advance`, between two phases of a load."""
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
        self.requests = 0
        """Those of `waiting` that are requests, not loads for their own sake."""


class Loads:
    """One load for each model at a time. Lives on the event loop."""

    def __init__(
        self, load: Callable[[Loading], Awaitable[None]], ended: Callable[[str], None]
    ) -> None:
        """`ended` is called with the model's name after each load, failed ones included."""
        self._load = load
        self._ended = ended
        self._loads: dict[str, _Load] = {}

    async def join(self, name: str, *, for_request: bool = False) -> None:
        """Wait for the load of `name`; start it if none is running.

        The load goes on while a caller waits; after the last one is cancelled, it ends at its next
        array. `for_request`: a request is answered after it, so that no unload cancels it.

        Raises:
            BackendError: the error of the load.
        """
        while (load := self._loads.get(name)) is not None and load.loading.cancelled:
            await asyncio.wait([load.task])
        load = load or self._begin(name)
        load.waiting += 1
        load.requests += for_request
        try:
            await asyncio.shield(load.task)
        finally:
            load.waiting -= 1
            load.requests -= for_request
            if not load.waiting:
                load.loading.cancelled = True

    async def cancel(self, name: str) -> None:
        """Cancel the load of `name` and wait for its end; its callers get an error.

        Raises:
            BackendBusyError: requests wait for it.
        """
        if (load := self._loads.get(name)) is None:
            return
        if load.requests:
            raise BackendBusyError(f"{load.requests} requests wait for '{name}' to be loaded.")
        load.loading.cancelled = True
        with suppress(BackendError):  # Its callers get it.
            await asyncio.shield(load.task)

    def progress(self) -> dict[str, Progress]:
        """Return the progress of running loads by model name."""
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
            # Retrieved here too: if no caller is left, asyncio would log it.
            task.exception()
        self._ended(name)
