"""`python -m adapters.mlx.gguf SOURCE TARGET`

The server runs this as a child process, so that the memory of a conversion is freed at its end.
Progress goes to stderr, the result as one line to stdout and as the exit status: 1 for a source
that cannot be converted, 3 for a target that cannot be written.
"""

import sys
from pathlib import Path

from adapters.gguf.conversion import UNWRITABLE, Bar
from adapters.mlx.gguf import InexactGGUFError, UnsupportedGGUFError, convert


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m adapters.mlx.gguf SOURCE TARGET", file=sys.stderr)
        return 2
    source, target = (Path(argument) for argument in arguments)
    try:
        bar = Bar(f"Converting {source.stem} for MLX, once")
        report = convert(source, target, bar, owned=True)
    except (UnsupportedGGUFError, InexactGGUFError) as exc:
        print(f"{source.name}: {exc}")
        return 1
    except OSError as exc:
        # Clients read it: no path.
        reason = exc.strerror or type(exc).__name__
        if exc.filename == str(source):
            print(f"{source.name}: {reason}")
            return 1
        print(reason)
        return UNWRITABLE
    worst = report.worst
    print(
        f"{target}: {len(report.tensors)} tensors; largest difference from the source "
        f"{worst.relative_l2:.1e} ({worst.tensor})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
