"""Estimate `Retry-After` for rejected requests."""

import time
from collections.abc import Callable


class AnswerRate:
    """The interval between the ends of answers, smoothed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._interval: float | None = None
        self._last: float | None = None

    def note_answer(self, *, busy: bool) -> None:
        """Note that an answer ended; `busy`: others are live, so that the next end counts too."""
        now = self._clock()
        if self._last is not None:
            seconds = now - self._last
            before = seconds if self._interval is None else self._interval
            self._interval = 0.8 * before + 0.2 * seconds
        self._last = now if busy else None

    def seconds_for(self, answers: int) -> float:
        """Estimate the seconds until so many answers have ended, between 1 and 60."""
        return min(max((self._interval or 1.0) * answers, 1.0), 60.0)
