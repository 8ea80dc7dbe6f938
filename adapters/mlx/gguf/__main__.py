"""`python -m adapters.mlx.gguf SOURCE TARGET`

The server runs this as a child process, so that the memory of a conversion is freed at its end.
Progress goes to stderr, the result as one line to stdout and as the exit status.
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
        f"{target}: {len(report.tensors)} tensors; largest difference from the source "
        f"{worst.relative_l2:.1e} ({worst.tensor})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
