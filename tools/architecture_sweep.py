"""The table of docs/architectures.md: every architecture of mlx-lm against the bare engine.

`uv run python tools/architecture_sweep.py` builds a tiny model with random weights of each, tries
every check, and writes which are right; some minutes. With names, it tries those and writes
nothing. `--json FILE` keeps the outcomes.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architectures.md"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from adapters.mlx import blas  # noqa: E402

# Before mlx is imported: afterwards it has no effect.
blas.preload()

from fakes.tiny_architectures import UNTESTED  # noqa: E402
from probes.architecture_sweep import CHECKS, OK, Outcome, sweep, variations  # noqa: E402

from tools.markdown_pages import with_part  # noqa: E402

BEGIN = "<!-- architectures: written by `uv run python tools/architecture_sweep.py` -->"
END = "<!-- end of architectures -->"


def run_all(names: list[str]) -> dict[str, Outcome]:
    """Put every check to every named variation."""
    outcomes: dict[str, Outcome] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            outcomes[name] = asyncio.run(sweep(name, Path(folder)))
        faults = {check: fault for check, fault in outcomes[name].faults.items() if fault != OK}
        print(name, faults or OK, *outcomes[name].notes, flush=True)
    return outcomes


def total(outcomes: dict[str, Outcome]) -> str:
    right = [name for name, outcome in outcomes.items() if outcome.is_right]
    return f"{len(right)} of {len(outcomes)} variations are right in everything"


def row(name: str, outcome: Outcome) -> str:
    wrong = [check for check, fault in outcome.faults.items() if fault != OK]
    result = ", ".join(wrong) if wrong else "right"
    return f"| {name} | {result} | {outcome.reused} | {' '.join(outcome.notes)} |"


def write_page(outcomes: dict[str, Outcome]) -> None:
    lines = [
        "",
        f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}: {total(outcomes)}.",
        "",
        "| architecture | result | cached of 52 tokens | said in the card |",
        "|---|---|---|---|",
        *(row(name, outcome) for name, outcome in outcomes.items()),
        "",
        "Not tested here:",
        "",
        *(f"- `{name}`: {reason}." for name, reason in UNTESTED.items()),
        "",
    ]
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_part(page, BEGIN, END, "\n".join(lines)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=f"Try {len(CHECKS)} checks on each architecture.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    outcomes = run_all(arguments.names or list(variations()))
    if arguments.json is not None:
        kept = {name: outcome._asdict() for name, outcome in outcomes.items()}
        arguments.json.write_text(json.dumps(kept, indent=1))
    if not arguments.names:
        write_page(outcomes)
    print(total(outcomes))


if __name__ == "__main__":
    main()
