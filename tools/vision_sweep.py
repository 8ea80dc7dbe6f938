"""The table of docs/vision.md: every family of mlx-vlm with a tiny form, against mlx-vlm itself.

`uv run python tools/vision_sweep.py` builds a tiny model with random weights of each, tries every
check, and writes which are right; some minutes. With names, it tries those and writes nothing.
"""

import argparse
import asyncio
import sys
import tempfile
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "vision.md"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from adapters.mlx import blas  # noqa: E402

# Before mlx is imported: afterwards it has no effect.
blas.preload()

from fakes.vision_families import UNTESTED, families  # noqa: E402
from probes.vision_sweep import OK, Outcome, sweep  # noqa: E402

from tools.markdown_pages import with_part  # noqa: E402

BEGIN = "<!-- families: written by `uv run python tools/vision_sweep.py` -->"
END = "<!-- end of families -->"


def run_all(names: list[str]) -> dict[str, Outcome]:
    """Put every check to every named family."""
    outcomes: dict[str, Outcome] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            outcomes[name] = asyncio.run(sweep(name, Path(folder)))
        print(name, *row(name, outcomes[name]).split("|")[2:-1], flush=True)
    return outcomes


def row(name: str, outcome: Outcome) -> str:
    wrong = [check for check, fault in outcome.faults.items() if fault != OK]
    result = f"wrong: {', '.join(wrong)}" if wrong else "refused" if outcome.refused else "right"
    notes = [outcome.refused, *outcome.notes]
    if outcome.several:
        notes.append(f"Several images: {outcome.several}")
    said = " ".join(note for note in notes if note)
    return f"| {name} | {result} | {outcome.reused or ''} | {said} |"


def write_page(outcomes: dict[str, Outcome]) -> None:
    reasons = sorted(UNTESTED.items(), key=lambda pair: (pair[1], pair[0]))
    lines = [
        "",
        f"mlx-vlm {version('mlx-vlm')}, mlx {version('mlx')}:",
        "",
        "| family | result | cached of a second turn | refusals and notes |",
        "|---|---|---|---|",
        *(row(name, outcome) for name, outcome in outcomes.items()),
        "",
        "Without a tiny form here:",
        "",
        *(
            f"- {', '.join(f'`{name}`' for name, _ in group)}: {reason}."
            for reason, group in groupby(reasons, key=lambda pair: pair[1])
        ),
        "",
    ]
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_part(page, BEGIN, END, "\n".join(lines)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare vision models with mlx-vlm's answers.")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    outcomes = run_all(arguments.names or families())
    if not arguments.names:
        write_page(outcomes)


if __name__ == "__main__":
    main()
