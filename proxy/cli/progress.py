"""Progress of long work on stderr: a bar on a terminal, else a line for each quarter or step."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.bench.results import Report


class Advance(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def progress_bar(title: str) -> Generator[Advance]:
    """Yield a function that shows how many of the bytes are done."""
    if not sys.stderr.isatty():
        yield _Quarters(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *counts)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


@contextmanager
def steps_bar() -> "Generator[Report]":
    """Yield a function that shows the step that runs, and the time that all others will take."""
    if not sys.stderr.isatty():
        yield _StepLines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    counts = (MofNCompleteColumn(), TimeRemainingColumn())
    columns = (BarColumn(), *counts, TextColumn("{task.description}"))
    # It goes when the work has ended: the result follows.
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda text, done, total: progress.update(
            task, description=text, completed=done, total=total or None
        )


class _Quarters:
    def __init__(self, title: str) -> None:
        self._title = title
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        if percent // 25 != self._shown:
            self._shown = percent // 25
            bar = "#" * (percent * 30 // 100)
            print(f"{self._title} [{bar:<30}] {percent:3}%", file=sys.stderr, flush=True)


class _StepLines:
    def __init__(self) -> None:
        self._began: float | None = None

    def __call__(self, text: str, done: int, total: int) -> None:
        number = f"[{done + 1}/{total}] " if total else ""
        print(f"{number}{text}{self._remaining(done, total)}", file=sys.stderr, flush=True)

    def _remaining(self, done: int, total: int) -> str:
        """`, about 20 s left`, from the second of the counted steps on."""
        now = time.monotonic()
        if self._began is None or not done:
            self._began = now if total else None
            return ""
        return f", about {(now - self._began) * (total - done) / done:.0f} s left"
