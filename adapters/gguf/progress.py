"""How far a conversion is, for a person to see."""

import sys
import time


class Bar:
    """One line redrawn on a terminal; elsewhere a line for each quarter of the way."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = time.monotonic()
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        step = 1 if sys.stderr.isatty() else 25
        if percent // step == self._shown:
            return
        self._shown = percent // step
        print(self._line(percent), end=self._end(percent), file=sys.stderr, flush=True)

    def _line(self, percent: int) -> str:
        bar = "#" * (percent * 30 // 100)
        seconds = time.monotonic() - self._began
        return f"{self._title} [{bar:<30}] {percent:3}% {seconds:.0f} s"

    def _end(self, percent: int) -> str:
        return "\r" if sys.stderr.isatty() and percent < 100 else "\n"
