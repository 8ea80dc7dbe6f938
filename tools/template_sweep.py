"""The table of docs/chat-templates.md: chat templates against the conversations of clients.

`uv run python tools/template_sweep.py` puts every recorded template into a tiny MLX model, tries
every conversation, and writes how many are right. `--json FILE` keeps the outcomes; `--before FILE`
shows those of an earlier revision beside them.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "chat-templates.md"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from adapters.mlx import blas  # noqa: E402

# Before mlx is imported: afterwards it has no effect.
blas.preload()

from probes.template_sweep import CHECKS, NONE, OK, sweep, templates  # noqa: E402

from adapters.mlx.prompt.learned import learn_from_texts  # noqa: E402
from tools.markdown_pages import with_part  # noqa: E402

BEGIN = "<!-- templates: written by `uv run python tools/template_sweep.py` -->"
END = "<!-- end of templates -->"
_HEAD = [
    "| template | before | now | calls | treatment of what it does not take |",
    "|---|---|---|---|---|",
]
Outcomes = dict[str, dict[str, str]]


def run_all() -> Outcomes:
    """Put every check to every template; some minutes."""
    found: Outcomes = {}
    for name, text in templates():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = asyncio.run(sweep(text, Path(folder)))
        print(name, count(found[name]), flush=True)
        for check, fault in found[name].items():
            if fault not in (OK, NONE):
                print(f"    {check}: {fault}", flush=True)
    return found


def count(outcomes: dict[str, str]) -> str:
    """Return right ones and all that apply, as `22 of 23`."""
    applicable = [fault for fault in outcomes.values() if fault != NONE]
    return f"{applicable.count(OK)} of {len(applicable)}"


def total(outcomes: Outcomes) -> str:
    right = sum(1 for each in outcomes.values() if set(each.values()) <= {OK, NONE})
    faults = [fault for each in outcomes.values() for fault in each.values() if fault != NONE]
    return (
        f"{right} of {len(outcomes)} templates are right in everything, "
        f"{faults.count(OK)} of {len(faults)} checks"
    )


def row(name: str, text: str, now: dict[str, str], before: dict[str, str] | None) -> str:
    learned = learn_from_texts({"default": text}, {})
    calls = "-" if learned.syntax is None else learned.syntax.body
    if learned.syntax is not None and learned.syntax.parser:
        calls = f"{calls}, read by mlx-lm"
    notes = ", ".join(f"`{note}`" for note in learned.notes)
    earlier = "" if before is None else count(before)
    return f"| {name} | {earlier} | {count(now)} | {calls} | {notes} |"


def write_page(now: Outcomes, before: Outcomes) -> None:
    lines = [row(name, text, now[name], before.get(name)) for name, text in templates()]
    summary = f"Now {total(now)}."
    if before:
        summary = f"Before, {total(before)}. {summary}"
    table = "\n".join(["", summary, "", *_HEAD, *lines, ""])
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_part(page, BEGIN, END, table), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=f"Try {len(CHECKS)} checks on each template.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before", type=Path)
    arguments = parser.parse_args()
    now = run_all()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(now, indent=1))
    before = json.loads(arguments.before.read_bytes()) if arguments.before is not None else {}
    write_page(now, before)
    print(total(now))


if __name__ == "__main__":
    main()
