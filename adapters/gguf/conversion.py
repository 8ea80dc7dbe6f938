"""Shared by both directions of a conversion: errors, the report on a tensor, a progress bar, and
whether a converted folder is still what was written."""

import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

REPORT = "conversion.json"
UNWRITABLE = 3
"""Exit status of a conversion that could not read or write a file."""


class UnsupportedGGUFError(ValueError):
    """The file needs something this converter does not support; the message names it."""


class InexactGGUFError(ValueError):
    """A tensor read back from the converted file differs from the source by more than allowed."""


@dataclass(frozen=True)
class TensorReport:
    """Accuracy of one converted tensor."""

    tensor: str
    """Its name in the GGUF."""
    source: str
    """Storage type in the source."""
    stored: str
    """Storage type in the converted file."""
    relative_l2: float
    """L2 norm of the difference over that of the source; 0 if identical to the last bit."""


class _Files(Struct):
    """The part of a report that is read here."""

    files: dict[str, str] = {}
    """SHA-256 of each file, by name."""


def is_intact(folder: Path) -> bool:
    """Return whether the files of a conversion are those that were written; reads all of them."""
    try:
        files = msgspec.json.decode((folder / REPORT).read_bytes(), type=_Files).files
        return bool(files) and all(sha256_of(folder / name) == sum_ for name, sum_ in files.items())
    except (OSError, ValueError, RecursionError):
        return False


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Bar:
    """Progress on stderr: one redrawn line on a terminal, else a line for each quarter."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = time.monotonic()
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        is_terminal = sys.stderr.isatty()
        step = percent // (1 if is_terminal else 25)
        if step == self._shown:
            return
        self._shown = step
        bar = "#" * (percent * 30 // 100)
        seconds = time.monotonic() - self._began
        line = f"{self._title} [{bar:<30}] {percent:3}% {seconds:.0f} s"
        end = "\r" if is_terminal and percent < 100 else "\n"
        print(line, end=end, file=sys.stderr, flush=True)
