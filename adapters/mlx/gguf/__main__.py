"""`python -m adapters.mlx.gguf SOURCE TARGET`

The server runs it as a child, so that what a conversion needs in memory goes when it is done.
Progress goes to stderr; the outcome is one line on stdout, and the exit status.
"""

import sys
import time
from pathlib import Path

from adapters.mlx.gguf import InexactGGUFError, UnsupportedGGUFError, convert


class Bar:
    """One line redrawn on a terminal; elsewhere a line for each quarter of the way."""

    def __init__(self, name: str) -> None:
        self._name = name
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
        return f"Converting {self._name} for MLX, once [{bar:<30}] {percent:3}% {seconds:.0f} s"

    def _end(self, percent: int) -> str:
        return "\r" if sys.stderr.isatty() and percent < 100 else "\n"


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m adapters.mlx.gguf SOURCE TARGET", file=sys.stderr)
        return 2
    source, target = (Path(argument) for argument in arguments)
    try:
        report = convert(source, target, Bar(source.stem))
    except (UnsupportedGGUFError, InexactGGUFError, OSError) as exc:
        print(f"{source.name}: {exc}")
        return 1
    worst = report.worst
    print(
        f"{target}: {len(report.tensors)} tensors, none further from the source "
        f"than {worst.relative_l2:.1e} ({worst.tensor})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
