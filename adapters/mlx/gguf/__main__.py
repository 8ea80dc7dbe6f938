"""`python -m adapters.mlx.gguf SOURCE TARGET`

The server runs it as a child, so that what a conversion needs in memory goes when it is done.
Progress goes to stderr; the outcome is one line on stdout, and the exit status.
"""

import sys
from pathlib import Path

from adapters.gguf.conversion import Bar
from adapters.mlx.gguf import InexactGGUFError, UnsupportedGGUFError, convert


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m adapters.mlx.gguf SOURCE TARGET", file=sys.stderr)
        return 2
    source, target = (Path(argument) for argument in arguments)
    try:
        report = convert(source, target, Bar(f"Converting {source.stem} for MLX, once"))
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
