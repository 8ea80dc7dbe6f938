"""The table of docs/parameters.md: parameters that Ollama's own /v1 and Tandem honour.

`uv run python tools/ollama_comparison.py` starts an Ollama and a Tandem of its own, puts every
probe to both, and writes what they did.
"""

import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parameters.md"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from probes.ollama_probes import GREEDY, PROBES, Probe, verdict  # noqa: E402
from probes.ollama_side import Side  # noqa: E402
from servers.ollama_server import PLAIN, own_ollama  # noqa: E402
from servers.server_process import serving, write  # noqa: E402

from tools.markdown_pages import with_part  # noqa: E402

BEGIN = (
    "<!-- ollama: written by `uv run python tools/ollama_comparison.py`, against a real Ollama -->"
)
END = "<!-- end of ollama -->"
_HEAD = [
    "| parameter | Ollama's own `/v1` | Tandem on Ollama | how it was judged |",
    "|---|---|---|---|",
]


@contextmanager
def both_sides(ollama: str) -> Iterator[tuple[Side, Side]]:
    """Ollama's own server, and Tandem's before it."""
    create_greedy(ollama)
    text = f"backends: {{mlx: null, ollama: {{host: '{ollama}'}}}}"
    with tempfile.TemporaryDirectory() as folder, serving(write(Path(folder), text)) as running:
        yield Side(ollama, ollama), Side(f"http://127.0.0.1:{running.port}", ollama)


def create_greedy(ollama: str) -> None:
    body = {"model": GREEDY, "from": PLAIN, "parameters": {"temperature": 0}, "stream": False}
    request = urllib.request.Request(f"{ollama}/api/create", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()


def row(probe: Probe, theirs: str, ours: str) -> str:
    return f"| `{probe.parameter}` | {theirs} | {ours} | {probe.judged} |"


def rows(page: str) -> dict[str, tuple[str, str]]:
    """Parameter -> the verdicts in the page's table: Ollama's and Tandem's."""
    _, _, rest = page.partition(BEGIN)
    table, _, _ = rest.partition(END)
    cells = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {cell[0].strip("|` "): (cell[1], cell[2]) for cell in cells}


def with_table(page: str, lines: list[str]) -> str:
    return with_part(page, BEGIN, END, "\n".join([*_HEAD, *lines]))


def main() -> None:
    lines: list[str] = []
    with own_ollama() as server, both_sides(server.host) as (theirs, ours):
        for probe in PROBES:
            lines.append(row(probe, verdict(probe, theirs), verdict(probe, ours)))
            print(lines[-1], flush=True)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), lines), encoding="utf-8")


if __name__ == "__main__":
    main()
