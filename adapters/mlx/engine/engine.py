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
from adapters.mlx.engine.batching_window import BatchingWindow
from adapters.mlx.engine.kv_pool import Pool
from adapters.mlx.engine.retry_after import Pace
from adapters.mlx.jobs import Job, Jobs, Pieces
from adapters.mlx.models.load_progress import Extras, Loading
from adapters.mlx.sequence import Post, Sampled, Sequence

if TYPE_CHECKING:
    # Importing these loads mlx and transformers, which an idle server does without.
    from adapters.mlx.engine.prefix_cache import PrefixCache
    from adapters.mlx.engine.scheduler import Scheduler
    from adapters.mlx.models.load import LoadedModel

logger = logging.getLogger(__name__)
T = TypeVar("T")
_CLOSING_SECONDS = 5.0
"""A step or a piece of a load cannot be interrupted: past that the thread is left behind, and ends
with the process."""

_FAILURES, _FAILURE_SECONDS = 3, 60.0
"""So many steps that failed within so many seconds, and the model is not asked again."""

Posted = tuple[Sequence, Post]


class Engine:
    """Starts its thread with the first command and ends it with `close`."""

    def __init__(self, config: MLXConfig) -> None:
        self._config = config
        self._commands: deque[Callable[[], None]] = deque()
        self._errands = Jobs()
        self._wake = threading.Condition()
        self.arrivals = BatchingWindow(self._wake)
        self._thread: threading.Thread | None = None
        self._closing = False
        self._ended = False
        self._lanes: dict[str, Scheduler] = {}
        self._live: Counter[str] = Counter()
        self._counters: Counter[str] = Counter()
        self._failures: dict[str, deque[float]] = {}
        self._failed: set[str] = set()
        self._pace = Pace()
        self._heartbeat = time.monotonic()
        self._commanded = False
        self.pool = Pool()

    # The event loop's side.

    def submit(self, *sequences: Sequence) -> None:
        """Queue the choices of one request, which share their prompt; what comes of them arrives
        through `Sequence.admitted` and `Sequence.next`.

        Raises:
            BackendBusyError: as many requests wait for this model as may.
            InsufficientMemoryError: the prompt and its answer never fit.
            GenerationError: the model failed too often, and has to be loaded anew.
        """
        model = sequences[0].model
        self._require_working(model)
        limit = self._config.max_concurrent + self._config.max_queue
        if (live := self._live[model]) >= limit:
            raise BackendBusyError(
                f"{limit} requests are running or waiting for '{model}'.",
                retry_after=self._pace.seconds_for(live - self._config.max_concurrent + 1),
            )
        if (lane := self._lanes.get(model)) is not None:
            lane.budget.require(sequences[0].expected)
        self._send(lambda: self._add(sequences))
        self._live[model] += len(sequences)
        self._counters["started"] += len(sequences)

    def release(self, sequence: Sequence, *, answered: bool) -> None:
        """The last thing said of a sequence. One that has not ended, because its client left or
        (`answered`) because a stop string came first, has its row free before the next step."""
        self._live[sequence.model] -= 1
        self._pace.note(busy=self._live[sequence.model] > 0)
        if sequence.ended:
            return
        sequence.cancelled = True
        self._counters["finished" if answered else "cancelled"] += 1
        with suppress(BackendUnavailableError):  # An engine that has ended has no rows.
            self._send(lambda: self._remove(sequence))

    def load(self, path: Path, loading: Loading, extras: Extras) -> "Future[LoadedModel]":
        return self.run_in_pieces(lambda: self._load(path, loading, extras))

    def unload(self, name: str) -> "Future[None]":
        """The future raises BackendBusyError while rows of that model are alive."""
        return self.run(lambda: self._unload(name))

    def tidy(self) -> "Future[None]":
        """Give back what nobody holds any more."""
        return self.run(_tidy)

    def counters(self) -> dict[str, int]:
        """`active` counts requests that wait or run, `rows` the rows the lanes hold now."""
        return {
            "active": sum(self._live.values()),
            "rows": sum(len(lane) for lane in tuple(self._lanes.values())),
            "loaded_models": len(self._lanes),
            "failed_models": len(self._failed),
            "prefix_hits": self._counters["prefix_hits"] + sum(c.hits for c in self._prefixes()),
            "prefix_bytes": sum(cache.nbytes for cache in self._prefixes()),
            **{name: self._counters[name] for name in _COUNTED},
        }

    def trouble(self) -> str | None:
        """What is wrong with it, in words for a person; `None` where nothing is."""
        if self._failed:
            return f"Failed, to be unloaded and loaded anew: {', '.join(sorted(self._failed))}."
        return self._stall()

    def is_well(self, model: str) -> bool:
        return model not in self._failed and self._stall() is None

    def _stall(self) -> str | None:
        silence = time.monotonic() - self._heartbeat
        if self._is_answering() and not self._commanded and silence > self._config.stall_seconds:
            return f"Stalled: no step has ended for {silence:.0f} seconds."
        return None

    def trim_prefixes(self, nbytes: int) -> "Future[int]":
        """Make the prefix caches give back at least so many bytes; the result is how many."""
        return self.run(lambda: self._trim_prefixes(nbytes))

    def confine(self, nbytes: int) -> "Future[int]":
        """Rows and prefix caches of all models may take so much together, from here on.

        The result is what they take: more, where rows have more already.
        """
        return self.run(lambda: self._confine(nbytes))

    def prefix_bytes(self, name: str) -> int:
        lane = self._lanes.get(name)
        return lane.prefixes.nbytes if lane is not None else 0

    def row_bytes(self, name: str, tokens: int) -> int:
        """What an answer of so many tokens takes, prompt included; 0 of a model without rows."""
        lane = self._lanes.get(name)
        return lane.budget.cost([tokens]) if lane is not None else 0

    def close(self) -> None:
        """End the thread after the step that runs; every sequence alive gets an error."""
        self._closing = True
        with self._wake:
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=_CLOSING_SECONDS)

    def _require_working(self, model: str) -> None:
        if model in self._failed:
            raise GenerationError(
                f"'{model}' failed {_FAILURES} times within a minute; unload it to try again.",
                lasting=True,
            )

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

    def run_in_pieces(self, start: Callable[[], Pieces[T]]) -> "Future[T]":
        """What `start` begins, on the thread, after what was sent so before it."""
        errand = Job(start)
        self._send(lambda: self._errands.add(errand))
        return errand.future

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
        self._obey()
        for lane in tuple(self._lanes.values()):
            if len(lane):
                self._post(self._step(lane))
            lane.keep_prefixes()
            self.pool.rows[lane.loaded.name] = lane.reserved
        self._settle()

    def _obey(self) -> None:
        """Loads are commands and may take minutes: nobody is to call that a stall."""
        self._commanded = True
        while self._commands and not self._closing:
            self._commands.popleft()()
        self._errands.advance()
        self._heartbeat = time.monotonic()
        self._commanded = False

    def _wait_for_work(self) -> None:
        with self._wake:
            while not (self._closing or self._commands or self._errands or self._is_answering()):
                self._wake.wait()
            if not (self._closing or self._errands or self._is_answering()):
                self.arrivals.wait()

    def _is_answering(self) -> bool:
        return any(len(lane) for lane in tuple(self._lanes.values()))

    def _step(self, lane: "Scheduler") -> list[Posted]:
        try:
            step = lane.step()
        except Exception:
            return self._fail(lane)
        finally:
            self._heartbeat = time.monotonic()
        for _, post in step:
            if isinstance(post, BackendError):
                self._counters["failed"] += 1
            elif post is not None:
                self._counters["tokens"] += isinstance(post, Sampled)
                self._counters["finished"] += post.finish is not None
        return list(step)

    def _fail(self, lane: "Scheduler") -> list[Posted]:
        """A step that raised leaves rows in no known state: all of them end, with an error."""
        from adapters.mlx.models.load import free_memory

        name = lane.loaded.name
        logger.exception("a step of %s failed", name)
        sequences = lane.drop_all()
        free_memory()
        self._counters["failed"] += len(sequences)
        self._note_failure(name)
        error = GenerationError("The engine failed while it generated this answer.")
        return [(sequence, error) for sequence in sequences]

    def _note_failure(self, name: str) -> None:
        now = time.monotonic()
        failures = self._failures.setdefault(name, deque(maxlen=_FAILURES))
        failures.append(now)
        if len(failures) == _FAILURES and now - failures[0] < _FAILURE_SECONDS:
            logger.error("%s failed %d times within a minute", name, _FAILURES)
            self._failed.add(name)

    def _add(self, sequences: tuple[Sequence, ...]) -> None:
        here = tuple(sequence for sequence in sequences if not sequence.cancelled)
        if not here:
            return
        lane, model = self._lanes.get(here[0].model), here[0].model
        if lane is None:
            gone = BackendUnavailableError(f"'{model}' was unloaded meanwhile.")
            self._post([(sequence, gone) for sequence in here])
            return
        lane.add(here)

    def _remove(self, sequence: Sequence) -> None:
        if (lane := self._lanes.get(sequence.model)) is None:
            return
        try:
            lane.remove(sequence)
        except Exception:
            self._post(self._fail(lane))

    def _load(self, path: Path, loading: Loading, extras: Extras) -> "Pieces[LoadedModel]":
        name = loading.name
        if name not in self._lanes:
            from adapters.mlx.engine.scheduler import Scheduler
            from adapters.mlx.models.load import load_folder

            started = time.monotonic()
            loaded = yield from load_folder(path, self._config.dequantize, loading, extras)
            yield
            lane = self._lanes[name] = Scheduler(loaded, self._config, self.pool)
            self.pool.least[name] = lane.budget.least
            self._counters["loads"] += 1
            logger.info("loaded %s in %.1f s", name, time.monotonic() - started)
        return self._lanes[name].loaded

    def _unload(self, name: str) -> None:
        if (lane := self._lanes.get(name)) is None:
            return
        self._failed.discard(name)
        self._failures.pop(name, None)
        if len(lane):
            raise BackendBusyError(f"'{name}' is answering {len(lane)} requests.")
        from adapters.mlx.models.load import free_memory

        self._drop(lane)
        del self._lanes[name], lane
        self.pool.drop(name)
        free_memory()

    def _drop(self, lane: "Scheduler") -> None:
        self._counters["prefix_hits"] += lane.prefixes.hits
        lane.prefixes.close()

    def _confine(self, nbytes: int) -> int:
        self.pool.limit = nbytes
        return self._settle()

    def _settle(self) -> int:
        """Keep of the prefixes what the rows leave room for; says what both take."""
        cached = sum(cache.nbytes for cache in self._prefixes())
        if self.pool.limit is not None and cached:
            cached -= self._trim_prefixes(self.pool.taken + cached - self.pool.limit)
        return self.pool.taken + cached

    def _trim_prefixes(self, nbytes: int) -> int:
        freed = 0
        for cache in self._prefixes():
            freed += cache.trim(nbytes - freed) if freed < nbytes else 0
        return freed

    def _prefixes(self) -> "list[PrefixCache]":
        return [lane.prefixes for lane in tuple(self._lanes.values())]

    def _abandon_all(self) -> None:
        while self._commands:
            self._commands.popleft()()
        error = BackendUnavailableError("The MLX engine was closed.")
        self._errands.give_up(error)
        for lane in self._lanes.values():
            self._post([(sequence, error) for sequence in lane.drop_all()])
            self._drop(lane)
        self._lanes.clear()

    def _post(self, posts: list[Posted]) -> None:
        """One hand-over per step and event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Posted]] = {}
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


def _tidy() -> None:
    from adapters.mlx.models.load import free_memory

    free_memory()


def _deliver(posts: list[Posted]) -> None:
    for sequence, post in posts:
        sequence.deliver(post)
