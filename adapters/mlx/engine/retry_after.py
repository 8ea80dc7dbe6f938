"""When those who are sent away may come back."""

import time


class Pace:
    """How fast answers end, to tell those who are sent away when to come back."""

    def __init__(self) -> None:
        self._interval: float | None = None
        self._last: float | None = None

    def note(self, *, busy: bool) -> None:
        """An answer ended; `busy`: others are still wanted, so that the next end tells the pace."""
        now = time.monotonic()
        if self._last is not None:
            seconds = now - self._last
            before = seconds if self._interval is None else self._interval
            self._interval = 0.8 * before + 0.2 * seconds
        self._last = now if busy else None

    def seconds_for(self, answers: int) -> float:
        """Between 1 and 60, as far as it can be told."""
        return min(max((self._interval or 1.0) * answers, 1.0), 60.0)
