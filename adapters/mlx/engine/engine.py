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
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from adapters.backend import BreakerState
from adapters.config import MLXConfig
from adapters.errors import BackendBusyError, BackendError, BackendUnavailableError, GenerationError
from adapters.mlx import blas
from adapters.mlx.engine.batching_window import BatchingWindow
from adapters.mlx.engine.kv_pool import Pool
from adapters.mlx.engine.lasting_thread import run_on_lasting_thread
from adapters.mlx.engine.retry_after import AnswerRate
from adapters.mlx.engine.watchdog import Watchdog
from adapters.mlx.jobs import BESIDE_SECONDS, SLICE_SECONDS, Job, Jobs, Pieces, as_exception
from adapters.mlx.libraries import import_libraries
from adapters.mlx.models.load_progress import Extras, Loading
from adapters.mlx.restarts import Restarts
from adapters.mlx.sequence import Post, Receiver, Sampled, Sequence

if TYPE_CHECKING:
    # Importing these loads mlx and transformers, which an idle server does without.
    from adapters.mlx.engine.prefix_cache import PrefixCache
    from adapters.mlx.engine.scheduler import Scheduler
    from adapters.mlx.models.load import LoadedModel

logger = logging.getLogger(__name__)
T = TypeVar("T")

Posted = tuple[Sequence, Post]
Command = Callable[[BackendError | None], None]
"""Called once on the thread, with the error where the thread has ended before."""
_COUNTERS = ("started", "finished", "cancelled", "failed", "tokens", "loads")


class ModelStatus(Struct, frozen=True):
    """The state of one loaded model."""

    rows: int
    """Sequences that wait, are read or decode."""
    max_rows: int
    prefix_bytes: int
    """Bytes of its prefix cache."""


class Engine:
    """Starts its thread with the first command and ends it with `close`.

    Where the thread fails outside of the work of one model, everything on it is lost: requests get
    an error, and the next command starts another thread, for which models are loaded anew.
    """

    def __init__(
        self,
        config: MLXConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        closing_seconds: float = 5.0,
        window_seconds: float = 0.02,
        slice_seconds: float = SLICE_SECONDS,
    ) -> None:
        """`clock` tells seconds, for stalls, failures, `max_wait` and `Retry-After`.

        `closing_seconds`: how long `close` waits for the step or the piece of a load that runs,
        which cannot be interrupted; after that the thread ends with the process.
        `window_seconds`: how long an idle engine waits for more requests, at most. Templates and
        tokens take a few milliseconds; the prompt of a long book is not waited for.
        `slice_seconds`: how long loads run between two steps.
        """
        self._config = config
        self._closing_seconds = closing_seconds
        self._commands: deque[Command] = deque()
        self._slice_seconds = slice_seconds
        self._jobs = Jobs(slice_seconds)
        self._beside = self._new_beside()
        """Work that may last as long as an answer: loads do not wait for it."""
        self._wake = threading.Condition()
        self.arrivals = BatchingWindow(self._wake, window_seconds)
        self._thread: Future[None] | None = None
        """Done when the work on the thread has ended."""
        self._closing = False
        self._ended = False
        self._schedulers: dict[str, Scheduler] = {}
        self.losses = 0
        """Threads that failed: models loaded before the latest failure are gone."""
        self._submitted: set[Sequence] = set()
        """Sequences that were submitted and not released."""
        self._live: Counter[str] = Counter()
        """Sequences of each model that were submitted and not released."""
        self._counters: Counter[str] = Counter()
        self._clock = clock
        self._rate = AnswerRate(clock)
        self._watchdog = Watchdog(config.stall_seconds, clock)
        self._restarts = Restarts(clock)
        self._unusable: str | None = None
        """The reason why the libraries cannot be imported."""
        self.pool = Pool()
        self.max_queue = config.max_queue

    # Called on the event loop.

    def submit(self, sequences: tuple[Sequence, ...], receive: Receiver) -> None:
        """Queue the choices of one request, which share their prompt.

        `receive` gets their results on the event loop; each sequence has to be released.

        Raises:
            BackendBusyError: the queue of this model is full.
            InsufficientMemoryError: the prompt and its answer never fit.
            GenerationError: the model failed too often, and has to be loaded anew.
            BackendUnavailableError: the engine itself failed too often.
        """
        model = sequences[0].model
        self._restarts.require_ready()
        self._watchdog.require_working(model)
        limit = self._config.max_concurrent + self._config.max_queue
        if (live := self._live[model]) >= limit:
            raise BackendBusyError(
                f"{limit} requests are running or waiting for '{model}'.",
                retry_after=self._rate.seconds_for(live - self._config.max_concurrent + 1),
            )
        if (scheduler := self._schedulers.get(model)) is not None:
            scheduler.budget.require(sequences[0].expected, sequences[0].image_bytes)
        for sequence in sequences:
            sequence.receive = receive

        def refuse(error: BackendError) -> None:
            self._post([(sequence, error) for sequence in sequences])

        self._send(lambda error: self._add(sequences) if error is None else refuse(error))
        self._submitted.update(sequences)
        self._live[model] += len(sequences)
        self._counters["started"] += len(sequences)

    def release(self, sequence: Sequence, *, answered: bool) -> None:
        """Give a sequence up, exactly once. The row of one that has not ended, because its client
        disconnected or (`answered`) because of a stop string, is free before the next step."""
        self._submitted.discard(sequence)
        self._live[sequence.model] -= 1
        self._rate.note_answer(busy=self._live[sequence.model] > 0)
        if sequence.ended:
            return
        sequence.cancelled = True
        self._counters["finished" if answered else "cancelled"] += 1
        with suppress(BackendUnavailableError):  # An engine that has ended has no rows.
            self._send(lambda _error: self._remove(sequence))

    def load(self, path: Path, loading: Loading, extras: Extras) -> "Future[LoadedModel]":
        """
        Raises:
            BackendUnavailableError: the engine failed too often.
        """
        self._restarts.require_ready()
        return self.run_in_pieces(lambda: self._load(path, loading, extras))

    def import_libraries(self) -> "Future[None]":
        """Import MLX and mlx-lm before the first load; raises as `import_libraries`."""
        return self.run(self._import_libraries)

    def unload(self, name: str) -> "Future[None]":
        """Free a model; the future raises BackendBusyError while it has rows."""
        return self.run(lambda: self._unload(name))

    def free_memory(self) -> "Future[None]":
        """Return memory without references to the system."""
        return self.run(_free_memory)

    def trim_prefixes(self, nbytes: int) -> "Future[int]":
        """Free at least `nbytes` of the prefix caches, as far as they have them; the result is how
        many were freed."""
        return self.run(lambda: self._trim_prefixes(nbytes))

    def confine(self, nbytes: int) -> "Future[int]":
        """Limit rows and prefix caches of all models together to `nbytes` from now on.

        The result is what they take: more, where rows have more already.
        """
        return self.run(lambda: self._confine(nbytes))

    def counters(self) -> dict[str, int]:
        """`active` counts requests that wait or run, `rows` the rows that the schedulers have."""
        caches = self._prefix_caches()
        return {
            "active": sum(self._live.values()),
            "rows": sum(map(len, tuple(self._schedulers.values()))),
            "loaded_models": len(self._schedulers),
            "failed_models": len(self._watchdog.failed),
            "prefix_hits": self._counters["prefix_hits"] + sum(cache.hits for cache in caches),
            "restarts": self._restarts.total,
            "prefix_bytes": sum(cache.nbytes for cache in caches),
            "kv_bytes": sum(tuple(self.pool.rows.values())),
            "kv_limit_bytes": self.pool.limit or 0,
            **{name: self._counters[name] for name in _COUNTERS},
        }

    def status(self, name: str) -> ModelStatus | None:
        """Describe a loaded model; `None` for any other, also for embedding models."""
        if (scheduler := self._schedulers.get(name)) is None:
            return None
        return ModelStatus(len(scheduler), scheduler.max_rows, scheduler.prefixes.nbytes)

    def trouble(self) -> str | None:
        """Describe what is wrong with the engine; `None` while nothing is."""
        if self._ended:
            return "The MLX engine was closed."
        return self._unusable or self._restarts.trouble() or self._watchdog.trouble()

    def note_success(self) -> None:
        """Note a result of work that is no step."""
        self._restarts.note_success()

    def breaker(self) -> BreakerState:
        if self._ended or self._unusable or self._watchdog.trouble() is not None:
            return "open"
        return self._restarts.breaker

    def is_well(self, model: str) -> bool:
        is_ready = not (self._ended or self._unusable) and self._restarts.breaker != "open"
        return is_ready and self._watchdog.is_well(model)

    def is_stalled(self) -> bool:
        return self._watchdog.is_stalled()

    def stall(self) -> str | None:
        """Describe a stall; `None` while the engine goes on."""
        return self._watchdog.stall()

    def row_bytes(self, name: str, tokens: int) -> int:
        """Return the bytes of a row of `tokens`, prompt included; 0 for a model without rows."""
        scheduler = self._schedulers.get(name)
        return scheduler.budget.cost([tokens]) if scheduler is not None else 0

    def close(self) -> None:
        """End the thread after the step that runs; every live sequence gets an error."""
        self._closing = True
        with self._wake:
            self._wake.notify()
        if self._thread is not None:
            wait([self._thread], self._closing_seconds)

    def run(self, job: Callable[[], T]) -> "Future[T]":
        """Run `job` on the thread, before its next step; cancelling the future drops it."""
        future: Future[T] = Future()

        def command(ended: BackendError | None) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if ended is not None:
                    raise ended
                future.set_result(job())
            except BaseException as error:
                future.set_exception(as_exception(error))

        self._send(command)
        return future

    def run_in_pieces(self, start: Callable[[], Pieces[T]]) -> "Future[T]":
        """Run a job in time slices between steps, after the jobs sent before it."""
        job = Job(start)
        self._send(lambda error: self._jobs.add(job) if error is None else job.give_up(error))
        return job.future

    def run_beside(self, start: Callable[[], Pieces[T]]) -> "Future[T]":
        """Run a job in short time slices between steps, beside loads and other such jobs."""
        job = Job(start)
        self._send(lambda error: self._beside.add(job) if error is None else job.give_up(error))
        return job.future

    def _send(self, command: Command) -> None:
        with self._wake:
            if self._ended:
                raise BackendUnavailableError("The MLX engine has ended.")
            if self._thread is None:
                try:
                    self._thread = run_on_lasting_thread(self._loop)
                except RuntimeError as error:
                    raise BackendUnavailableError(f"The MLX engine: {error}.") from error
            self._commands.append(command)
            self._wake.notify()

    # Called on the engine's thread.

    def _loop(self) -> None:
        error = BackendUnavailableError("The MLX engine was closed.")
        try:
            blas.preload()
            while not self._closing:
                self._wait_for_work()
                while self._commands and not self._closing:
                    self._commands.popleft()(None)
                self._watchdog.begin_step()
                self._jobs.advance()
                self._beside.advance()
                self._step_all()
        except BaseException as failure:
            logger.exception("the MLX engine failed; its models have to be loaded anew")
            reason = f"The MLX engine failed ({type(failure).__name__})."
            self._restarts.note_end(reason)
            error = BackendUnavailableError(f"{reason} It is started anew.")
        finally:
            self._end(error)

    def _new_beside(self) -> Jobs:
        return Jobs(min(self._slice_seconds, BESIDE_SECONDS), rotating=True)

    def _end(self, error: BackendError) -> None:
        """Leave no request waiting for a thread that is gone, however it ended."""
        with self._wake:
            # From here on a command starts the next thread, or is refused.
            self._ended = self._closing
            self._thread = None if not self._closing else self._thread
            self.losses += 1
            commands, self._commands = self._commands, deque()
            jobs, self._jobs = self._jobs, Jobs(self._slice_seconds)
            beside, self._beside = self._beside, self._new_beside()
            schedulers, self._schedulers = self._schedulers, {}
        self._watchdog.end_steps()
        for scheduler in schedulers.values():
            _attempt(lambda scheduler=scheduler: self._drop(scheduler))
            self.pool.drop(scheduler.loaded.name)
        for command in commands:
            _attempt(lambda command=command: command(error))
        jobs.give_up(error)
        beside.give_up(error)
        unended = [sequence for sequence in tuple(self._submitted) if not sequence.ended]
        self._post([(sequence, error) for sequence in unended])

    def _wait_for_work(self) -> None:
        def is_decoding() -> bool:
            return any(map(len, self._schedulers.values()))

        with self._wake:

            def is_busy() -> bool:
                return bool(self._jobs or self._beside) or is_decoding()

            while not (self._closing or self._commands or is_busy()):
                self._wake.wait()
            if not (self._closing or is_busy()):
                self.arrivals.wait()

    def _step_all(self) -> None:
        """Advance each model by one step, and hand its tokens over before its prefixes are kept."""
        for scheduler in tuple(self._schedulers.values()):
            self._watchdog.begin_step()
            if len(scheduler):
                self._post(self._step(scheduler))
                self._restarts.note_success()
            self._keep_prefixes(scheduler)
            self.pool.rows[scheduler.loaded.name] = scheduler.reserved
        self._watchdog.end_steps()
        self._settle()

    def _keep_prefixes(self, scheduler: "Scheduler") -> None:
        try:
            scheduler.keep_prefixes()
        except BaseException:
            self._post(self._fail(scheduler))

    def _step(self, scheduler: "Scheduler") -> list[Posted]:
        try:
            posts = scheduler.step()
        except BaseException:  # Also `SystemExit`: a model's code ends its own answers only.
            return self._fail(scheduler)
        for _, post in posts:
            if isinstance(post, BackendError):
                self._counters["failed"] += 1
            elif post is not None:
                self._counters["tokens"] += isinstance(post, Sampled)
                self._counters["finished"] += post.finish is not None
        return posts

    def _fail(self, scheduler: "Scheduler") -> list[Posted]:
        """End all rows after an exception: it leaves them in no known state."""
        name = scheduler.loaded.name
        logger.exception("a step of %s failed", name)
        sequences = scheduler.drop_all()
        _free_memory()
        self._counters["failed"] += len(sequences)
        if self._watchdog.note_failure(name):
            logger.error("%s failed too often and is not used until it is reloaded", name)
        return [(sequence, _failure()) for sequence in sequences]

    def _post(self, posts: list[Posted]) -> None:
        """Hand results over: once for each event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Posted]] = {}
        for sequence, post in posts:
            sequence.ended = isinstance(post, BackendError) or (
                post is not None and post.finish is not None
            )
            by_loop.setdefault(sequence.loop, []).append((sequence, post))
        for loop, its_posts in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, its_posts)
            except RuntimeError:
                # That loop was closed without ending its tasks: nothing receives the rest.
                for sequence, _ in its_posts:
                    self._remove(sequence)

    def _add(self, sequences: tuple[Sequence, ...]) -> None:
        live = tuple(sequence for sequence in sequences if not sequence.cancelled)
        if not live:
            return
        model = live[0].model
        if (scheduler := self._schedulers.get(model)) is not None:
            try:
                scheduler.add(live)
            except BaseException:
                self._post([*self._fail(scheduler), *((each, _failure()) for each in live)])
            return
        unloaded = BackendUnavailableError(f"'{model}' was unloaded meanwhile.")
        self._post([(sequence, unloaded) for sequence in live])

    def _remove(self, sequence: Sequence) -> None:
        if (scheduler := self._schedulers.get(sequence.model)) is None:
            return
        try:
            scheduler.remove(sequence)
        except BaseException:
            self._post(self._fail(scheduler))

    def _import_libraries(self) -> None:
        try:
            import_libraries()
        except BackendUnavailableError as error:
            self._unusable = error.message
            raise
        self._unusable = None

    def _load(self, path: Path, loading: Loading, extras: Extras) -> "Pieces[LoadedModel]":
        name = loading.name
        if name not in self._schedulers:
            from adapters.mlx.engine.proof import proven
            from adapters.mlx.engine.scheduler import Scheduler
            from adapters.mlx.engine.vision_proof import seeing
            from adapters.mlx.models.load import explained, load_folder

            started = time.monotonic()
            with explained(path, name, *extras.folders):
                loaded = yield from load_folder(path, self._config.dequantize, loading, extras)
                loaded = yield from proven(loaded, self._config)
                loaded = yield from seeing(loaded)
                yield
                scheduler = Scheduler(loaded, self._config, self.pool, self._clock)
            self._schedulers[name] = scheduler
            self.pool.least[name] = scheduler.budget.least
            self._counters["loads"] += 1
            logger.info("loaded %s in %.1f s", name, time.monotonic() - started)
        return self._schedulers[name].loaded

    def _unload(self, name: str) -> None:
        if (scheduler := self._schedulers.get(name)) is None:
            return
        self._watchdog.forget(name)
        if len(scheduler):
            raise BackendBusyError(f"'{name}' is answering {len(scheduler)} requests.")
        self._drop(scheduler)
        del self._schedulers[name], scheduler
        self.pool.drop(name)
        _free_memory()

    def _drop(self, scheduler: "Scheduler") -> None:
        self._counters["prefix_hits"] += scheduler.prefixes.hits
        scheduler.prefixes.close()

    def _confine(self, nbytes: int) -> int:
        self.pool.limit = nbytes
        return self._settle()

    def _settle(self) -> int:
        """Trim the prefixes to what the rows leave of the limit; return the bytes of both."""
        cached = sum(cache.nbytes for cache in self._prefix_caches())
        if self.pool.limit is not None and cached:
            cached -= self._trim_prefixes(self.pool.taken + cached - self.pool.limit)
        return self.pool.taken + cached

    def _trim_prefixes(self, nbytes: int) -> int:
        freed = 0
        for cache in self._prefix_caches():
            freed += cache.trim(nbytes - freed) if freed < nbytes else 0
        return freed

    def _prefix_caches(self) -> "list[PrefixCache]":
        return [scheduler.prefixes for scheduler in tuple(self._schedulers.values())]


def _failure() -> GenerationError:
    return GenerationError("The engine failed while it generated this answer.")


def _attempt(work: Callable[[], object]) -> None:
    """Do a part of the end, whatever the others raise."""
    try:
        work()
    except BaseException:
        logger.exception("the MLX engine did not end in order")


def _deliver(posts: list[Posted]) -> None:
    for sequence, post in posts:
        sequence.receive(sequence, post)


def _free_memory() -> None:
    from adapters.mlx.models.load import free_memory

    free_memory()
