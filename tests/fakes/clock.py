"""A clock for what is valid for a while."""

import time


class Clock:
    """The monotonic clock, which a test can advance."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def advance(self, seconds: float = 60.0) -> None:
        self._ahead += seconds
