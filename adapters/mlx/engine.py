"""The one thread that owns every MLX model, generator and array.

The event loop sends commands; after each step the thread hands all new tokens over at once.
mlx's streams are thread-local: an array that is not yet evaluated can be used on its own thread
only, which is why loading, generating and freeing all happen here.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from adapters.config import MLXConfig
from adapters.errors import BackendBusyError, BackendError, BackendUnavailableError, GenerationError
from adapters.mlx import blas
from adapters.mlx.sequence import Sampled, Sequence

if TYPE_CHECKING:
    # Importing these loads mlx and transformers, which an idle server does without.
    from adapters.mlx.batch import Lane
    from adapters.mlx.models import LoadedModel

logger = logging.getLogger(__name__)
T = TypeVar("T")
_CLOSING_SECONDS = 5.0
"""A load cannot be interrupted: past that the thread is left behind, and ends with the process."""

Post = tuple[Sequence, Sampled | BackendError]


class Engine:
    """Starts its thread with the first command and ends it with `close`."""

    def __init__(self, config: MLXConfig) -> None:
        self._config = config
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._ended = False
        self._lanes: dict[str, Lane] = {}
        self._live: Counter[str] = Counter()
        self._counters: Counter[str] = Counter()

    # The event loop's side.

    def submit(self, sequence: Sequence) -> None:
        """Queue `sequence`; its tokens arrive through `Sequence.next`.

        Raises:
            BackendBusyError: as many requests wait for this model as may.
        """
        limit = self._config.max_concurrent + self._config.max_queue
        if self._live[sequence.model] >= limit:
            raise BackendBusyError(
                f"{limit} requests are running or waiting for '{sequence.model}'."
            )
        self._send(lambda: self._add(sequence))
        self._live[sequence.model] += 1
        self._counters["started"] += 1

    def release(self, sequence: Sequence, *, answered: bool) -> None:
        """The last thing said of a sequence. One that has not ended, because its client left or
        (`answered`) because a stop string came first, has its row free before the next step."""
        self._live[sequence.model] -= 1
        if sequence.ended:
            return
        sequence.cancelled = True
        self._counters["finished" if answered else "cancelled"] += 1
        with suppress(BackendUnavailableError):  # An engine that has ended has no rows.
            self._send(lambda: self._remove(sequence))

    def load(self, name: str, path: Path) -> "Future[LoadedModel]":
        return self.run(lambda: self._load(name, path))

    def unload(self, name: str) -> "Future[None]":
        """The future raises BackendBusyError while rows of that model are alive."""
        return self.run(lambda: self._unload(name))

    def counters(self) -> dict[str, int]:
        """`active` counts requests that wait or run, `rows` the rows the lanes hold now."""
        return {
            "active": sum(self._live.values()),
            "rows": sum(len(lane) for lane in tuple(self._lanes.values())),
            "loaded_models": len(self._lanes),
            **{name: self._counters[name] for name in _COUNTED},
        }

    def close(self) -> None:
        """End the thread after the step that runs; every sequence alive gets an error."""
        self._closing = True
        with self._wake:
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=_CLOSING_SECONDS)

    def run(self, job: Callable[[], T]) -> "Future[T]":
        """`job` on the thread, before its next step; the future may be cancelled until then."""
        future: Future[T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)

        self._send(command)
        return future

    def _send(self, command: Callable[[], None]) -> None:
        with self._wake:
            if self._ended:
                raise BackendUnavailableError("The MLX engine has ended.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="mlx-engine", daemon=True)
                self._thread.start()
            self._commands.append(command)
            self._wake.notify()

    # The thread's side.

    def _loop(self) -> None:
        blas.preload()
        try:
            while not self._closing:
                self._turn()
        finally:
            # However it ends, nobody is left waiting for a thread that is gone.
            with self._wake:
                self._closing = self._ended = True
            self._abandon_all()

    def _turn(self) -> None:
        self._wait_for_work()
        while self._commands and not self._closing:
            self._commands.popleft()()
        for lane in tuple(self._lanes.values()):
            if len(lane):
                self._post(self._step(lane))

    def _wait_for_work(self) -> None:
        with self._wake:
            while not (self._closing or self._commands or any(map(len, self._lanes.values()))):
                self._wake.wait()

    def _step(self, lane: "Lane") -> list[Post]:
        try:
            step = lane.step()
        except Exception:
            return self._fail(lane)
        self._counters["tokens"] += len(step)
        self._counters["finished"] += sum(sampled.finish is not None for _, sampled in step)
        return list(step)

    def _fail(self, lane: "Lane") -> list[Post]:
        """A step that raised leaves rows in no known state: all of them end, with an error."""
        logger.exception("a step of %s failed", lane.loaded.name)
        sequences = lane.drop_all()
        self._counters["failed"] += len(sequences)
        error = GenerationError("The engine failed while it generated this answer.")
        return [(sequence, error) for sequence in sequences]

    def _add(self, sequence: Sequence) -> None:
        lane = self._lanes.get(sequence.model)
        if sequence.cancelled:
            return
        if lane is None or self._closing:
            gone = BackendUnavailableError(f"'{sequence.model}' was unloaded meanwhile.")
            self._post([(sequence, gone)])
            return
        try:
            lane.add(sequence)
        except Exception:
            logger.exception("%s did not take a request", sequence.model)
            self._counters["failed"] += 1
            self._post([(sequence, GenerationError("The engine did not take this request."))])

    def _remove(self, sequence: Sequence) -> None:
        if (lane := self._lanes.get(sequence.model)) is None:
            return
        try:
            lane.remove(sequence)
        except Exception:
            self._post(self._fail(lane))

    def _load(self, name: str, path: Path) -> "LoadedModel":
        if self._closing:
            raise BackendUnavailableError("The MLX engine was closed.")
        if name not in self._lanes:
            from adapters.mlx.batch import create_lane
            from adapters.mlx.models import load_folder

            started = time.monotonic()
            loaded = load_folder(name, path, self._config.dequantize)
            self._lanes[name] = create_lane(loaded, self._config)
            self._counters["loads"] += 1
            logger.info("loaded %s in %.1f s", name, time.monotonic() - started)
        return self._lanes[name].loaded

    def _unload(self, name: str) -> None:
        if (lane := self._lanes.get(name)) is None:
            return
        if len(lane):
            raise BackendBusyError(f"'{name}' is answering {len(lane)} requests.")
        from adapters.mlx.models import free_memory

        del self._lanes[name], lane
        free_memory()

    def _abandon_all(self) -> None:
        while self._commands:
            self._commands.popleft()()
        error = BackendUnavailableError("The MLX engine was closed.")
        for lane in self._lanes.values():
            self._post([(sequence, error) for sequence in lane.drop_all()])
        self._lanes.clear()

    def _post(self, posts: list[Post]) -> None:
        """One hand-over per step and event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Post]] = {}
        for post in posts:
            by_loop.setdefault(post[0].loop, []).append(post)
        for loop, mine in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, mine)
            except RuntimeError:
                # That loop was closed without closing its generators: nobody listens any more.
                for sequence, _ in mine:
                    self._remove(sequence)


_COUNTED = ("started", "finished", "cancelled", "failed", "tokens", "loads")


def _deliver(posts: list[Post]) -> None:
    for sequence, post in posts:
        sequence.deliver(post)
