"""Progress of long work on stderr: a bar on a terminal, else a line for each quarter."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def progress_bar(title: str, *, is_bytes: bool = True) -> Generator[Advance]:
    """Yield a function that shows how much of the work is done; `is_bytes`: counted in bytes."""
    if not sys.stderr.isatty():
        yield _Quarters(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts = (DownloadColumn(), TransferSpeedColumn()) if is_bytes else (MofNCompleteColumn(),)
    title_column = TextColumn("{task.description}")
    columns = (title_column, BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


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
