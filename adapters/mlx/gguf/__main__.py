"""`python -m adapters.mlx.gguf SOURCE TARGET [SAMPLING]`

SAMPLING, as JSON, replaces the recommendation in the file.

The server runs this as a child process, so that the memory of a conversion is freed at its end.
Progress goes to stderr, the result as one line to stdout and as the exit status: 1 for a source
that cannot be converted, 3 for a target that cannot be written.
"""

import sys
from pathlib import Path

import msgspec

from adapters.gguf.conversion import UNWRITABLE, Bar
from adapters.mlx.gguf import InexactGGUFError, UnsupportedGGUFError, convert
from adapters.recommended_sampling import RecommendedSampling


def main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print("usage: python -m adapters.mlx.gguf SOURCE TARGET [SAMPLING]", file=sys.stderr)
        return 2
    source, target = Path(arguments[0]), Path(arguments[1])
    sampling = None
    if len(arguments) == 3:
        sampling = msgspec.json.decode(arguments[2], type=RecommendedSampling)
    try:
        bar = Bar(f"Converting {source.stem} for MLX, once")
        report = convert(source, target, bar, owned=True, sampling=sampling)
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
