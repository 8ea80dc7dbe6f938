"""One answer of an audio model between the event loop and the engine's thread."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.errors import BackendBusyError, BackendError, GenerationError
from adapters.mlx.engine.engine import Engine

if TYPE_CHECKING:
    from adapters.mlx.jobs import Pieces

T = TypeVar("T")
logger = logging.getLogger(__name__)


class AudioJobs:
    """The requests of one model: one at a time, because its code keeps state between layers."""

    def __init__(self, engine: Engine, model: str, max_queue: int) -> None:
        self._engine = engine
        self._model = model
        self._max_queue = max_queue
        self._turn = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait until no other request uses the model.

        Raises:
            BackendBusyError: too many requests wait already.
        """
        if self._turn.locked() and self._waiting >= self._max_queue:
            raise BackendBusyError(f"{self._waiting} requests are waiting for '{self._model}'.")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def run(
        self,
        work: Callable[[Callable[[Any], None]], T],
        receive: Callable[[Any], Awaitable[None]],
    ) -> T:
        """Run `work(report)` in slices on the engine's thread; `receive` gets what it reports.

        Cancelling the call stops the work at its next checkpoint.

        Raises:
            BackendError: raised by `work`.
            GenerationError: `work` raised anything else.
        """
        loop, stopped = asyncio.get_running_loop(), Event()
        reports: asyncio.Queue[Any] = asyncio.Queue()
        end = object()

        def post(report: Any) -> None:
            loop.call_soon_threadsafe(reports.put_nowait, report)

        def start() -> "Pieces[T]":
            from adapters.mlx.audio.slices import in_slices

            return (yield from in_slices(partial(work, post), stopped))

        future = self._engine.run_beside(start)
        future.add_done_callback(lambda _: post(end))
        try:
            while (report := await reports.get()) is not end:
                await receive(report)
            return future.result()
        except BackendError:
            raise
        except Exception as error:
            logger.exception("%s failed", self._model)
            raise GenerationError(f"'{self._model}' failed: {type(error).__name__}.") from error
        finally:
            stopped.set()
            future.cancel()
