"""Long work of the engine's thread, done in pieces, between which everybody's rows have a step."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Pieces = Generator[None, None, T]
"""Work that yields where others may have the thread, and returns what came of it."""

_TURN = 0.1
"""Seconds of pieces between two steps: what a load costs those who are answered meanwhile."""
_GLANCE = 0.01


def finish(pieces: Pieces[T]) -> T:
    """All of it at once, where nobody else wants the thread."""
    while True:
        try:
            next(pieces)
        except StopIteration as ended:
            return ended.value


def beside(job: Callable[[], T]) -> Pieces[T]:
    """`job` on a thread of its own: what touches no array need not keep the engine's thread.

    It begins with the first piece, and is left to itself where the pieces are given up.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="mlx-errand")
    future = pool.submit(job)
    pool.shutdown(wait=False)
    yield
    while wait([future], _GLANCE).not_done:
        yield
    return future.result()


class Job(Generic[T]):
    """`start` is called with the first piece."""

    def __init__(self, start: Callable[[], Pieces[T]]) -> None:
        self.future: Future[T] = Future()
        self._start = start
        self._pieces: Pieces[T] | None = None

    def advance(self) -> bool:
        """The next piece. False where there is none any more: the future has what came of it."""
        if self._pieces is None:
            if not self.future.set_running_or_notify_cancel():
                return False
            self._pieces = self._start()
        try:
            next(self._pieces)
        except StopIteration as ended:
            self.future.set_result(ended.value)
        except Exception as error:
            self.future.set_exception(error)
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
    """One after the other: two loads at once would each take twice as long."""

    def __init__(self) -> None:
        self._waiting: deque[Job[Any]] = deque()

    def add(self, errand: Job[Any]) -> None:
        self._waiting.append(errand)

    def advance(self) -> None:
        """Some pieces of the first."""
        until = time.monotonic() + _TURN
        while self._waiting and time.monotonic() < until:
            if not self._waiting[0].advance():
                self._waiting.popleft()

    def give_up(self, error: Exception) -> None:
        while self._waiting:
            self._waiting.popleft().give_up(error)

    def __len__(self) -> int:
        return len(self._waiting)
