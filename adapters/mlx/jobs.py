"""Background jobs on the engine's thread, in time slices between decode steps."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

from adapters.errors import BackendTimeoutError, GenerationError

T = TypeVar("T")
Pieces = Generator[None, None, T]
"""Work that yields where other work may have the thread, and returns its result."""

SLICE_SECONDS = 0.1
"""Time of pieces between two steps: the delay that a load costs each token."""
BESIDE_SECONDS = 0.02
"""The same for work that lasts as long as an answer: of the order of a step."""
_POLL_SECONDS = 0.01
_FILES_SECONDS = 300.0
"""For tokenizers and imports; only a file system that hangs takes longer."""


def finish(pieces: Pieces[T]) -> T:
    """Do all pieces at once, where no other work wants the thread."""
    while True:
        try:
            next(pieces)
        except StopIteration as ended:
            return ended.value


def beside(job: Callable[[], T], seconds: float = _FILES_SECONDS) -> Pieces[T]:
    """Run `job` on a thread of its own: work without arrays need not keep the engine's thread.

    It begins with the first piece, and goes on unobserved if the pieces are given up.

    Raises:
        BackendTimeoutError: it takes longer than `seconds`.
    """
    ends = time.monotonic() + seconds
    pool = ThreadPoolExecutor(1, thread_name_prefix="mlx-job")
    future = pool.submit(job)
    pool.shutdown(wait=False)
    yield
    while wait([future], _POLL_SECONDS).not_done:
        if time.monotonic() > ends:
            raise BackendTimeoutError(
                f"The files of the model were not read within {seconds:g} seconds."
            )
        yield
    return future.result()


def as_exception(error: BaseException) -> Exception:
    """Return `error`, or a GenerationError in place of what would end a thread or an event loop:
    `SystemExit`, for example, which modules of mlx-lm raise where a package is missing."""
    if isinstance(error, Exception):
        return error
    return GenerationError(f"The model's code raised {type(error).__name__}: {error}", lasting=True)


class Job(Generic[T]):
    """A job and the future of its result. `start` is called with the first piece."""

    def __init__(self, start: Callable[[], Pieces[T]]) -> None:
        self.future: Future[T] = Future()
        self._start = start
        self._pieces: Pieces[T] | None = None

    def advance(self) -> bool:
        """Do the next piece; false after the last, when the future has the result."""
        if self._pieces is None:
            if not self.future.set_running_or_notify_cancel():
                return False
            self._pieces = self._start()
        try:
            next(self._pieces)
        except StopIteration as ended:
            self.future.set_result(ended.value)
        except BaseException as error:
            # `sys.exit` in a model's code ends its job, not the thread.
            self.future.set_exception(as_exception(error))
        else:
            return True
        return False

    def give_up(self, error: Exception) -> None:
        if self._pieces is not None:
            self._pieces.close()
        elif not self.future.set_running_or_notify_cancel():
            return
        self.future.set_exception(error)


class Jobs:
    """Runs one job after the other: two loads at once would each take twice as long.

    With `rotating`, each slice is another job's, for jobs that last as long as an answer.
    """

    def __init__(
        self,
        slice_seconds: float = SLICE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        *,
        rotating: bool = False,
    ) -> None:
        self._rotating = rotating
        self._slice_seconds = slice_seconds
        self._clock = clock
        self._waiting: deque[Job[Any]] = deque()

    def add(self, job: Job[Any]) -> None:
        self._waiting.append(job)

    def advance(self) -> None:
        """Do pieces for one time slice; one piece at least."""
        if self._rotating:
            self._waiting.rotate(-1)
        until = self._clock() + self._slice_seconds
        while self._waiting:
            if not self._waiting[0].advance():
                self._waiting.popleft()
            if self._clock() >= until:
                return

    def give_up(self, error: Exception) -> None:
        while self._waiting:
            self._waiting.popleft().give_up(error)

    def __len__(self) -> int:
        return len(self._waiting)
