"""The cost of an answer under a schema from a rendered prompt, beside Ollama's own `format`.

`uv run python tools/constrained_cost.py [CLASS …]` starts an Ollama and a Tandem of its own. For
each class it has the same schema kept in turns by `/api/chat` with `format` (one request), by a
rendering and `/api/generate` with `raw` (two), and through Tandem, and prints processor time for
each answer: of all processes of Ollama, and of Tandem. Wall time is a ratio, because other work on
the machine lengthens all.
"""

import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from msgspec import Struct  # noqa: E402
from probes.class_probes import FORMAT, SCHEMA, SUM, wait_for  # noqa: E402
from servers.ollama_classes import create_classes  # noqa: E402
from servers.ollama_server import own_ollama  # noqa: E402
from servers.server_process import serving, write  # noqa: E402

CLASSES = ("go", "jinja", "qwen3.5")
ANSWERS = 10
_TICKS = os.sysconf("SC_CLK_TCK")
_COMMON = {
    "stream": False,
    "options": {"temperature": 0, "num_predict": 60, "num_ctx": 2048},
    # As Tandem has them: a model that was loaded with another `shift` is loaded anew.
    "truncate": False,
    "shift": False,
}


class Cost(Struct):
    """Of one way to have an answer."""

    seconds: list[float] = []
    ollama: float = 0
    """Seconds of processor time."""
    tandem: float = 0


_JSON = "application/json"


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": _JSON})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def processor_seconds(group: int) -> float:
    """Sum the processor time of all processes of a group."""
    return sum(seconds for _, of, seconds in _processes() if of == group)


def processor_seconds_of(process: int) -> float:
    return sum(seconds for pid, _, seconds in _processes() if pid == process)


def _processes() -> Iterator[tuple[int, int, float]]:
    """Yield the id, the group and the processor seconds of each process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # It has ended.
            fields = stat.read_text().rpartition(")")[2].split()
            ticks = int(fields[11]) + int(fields[12])
            yield int(stat.parent.name), int(fields[2]), ticks / _TICKS


def by_format(host: str, model: str) -> str:
    body = {"model": model, "messages": SUM, "format": SCHEMA, "think": False, **_COMMON}
    return post(f"{host}/api/chat", body)["message"]["content"]


def by_rendering(host: str, model: str) -> str:
    chat = {"model": model, "messages": SUM, "think": False, "_debug_render_only": True, **_COMMON}
    prompt = post(f"{host}/api/chat", chat)["_debug_info"]["rendered_template"]
    raw = {"model": model, "prompt": prompt, "raw": True, "format": SCHEMA, **_COMMON}
    return post(f"{host}/api/generate", raw)["response"]


def through_tandem(port: int, model: str) -> str:
    body = {"model": model, "messages": SUM, "response_format": FORMAT, "temperature": 0}
    body |= {"max_tokens": 60, "reasoning_effort": "none", "num_ctx": 2048}
    answer = post(f"http://127.0.0.1:{port}/v1/chat/completions", body)
    return answer["choices"][0]["message"]["content"]


def measure(ways: dict[str, Callable[[], str]], ollama: int, tandem: int) -> dict[str, Cost]:
    """Have `ANSWERS` answers by each of `ways` in turns; the first of each is left out."""
    costs = {name: Cost() for name in ways}
    for way in ways.values():
        way()
    for _ in range(ANSWERS):
        for name, way in ways.items():
            cost = costs[name]
            before = processor_seconds(ollama), processor_seconds_of(tandem), time.perf_counter()
            way()
            cost.seconds.append(time.perf_counter() - before[2])
            cost.ollama += processor_seconds(ollama) - before[0]
            cost.tandem += processor_seconds_of(tandem) - before[1]
    return costs


def main(names: list[str]) -> None:
    with own_ollama() as server, tempfile.TemporaryDirectory() as folder:
        models = create_classes(server, names)
        text = f"backends: {{mlx: null, ollama: {{host: '{server.host}'}}}}"
        with serving(write(Path(folder), text)) as running:
            print("| class | way | Ollama, ms | Tandem, ms | wall, of format's |")
            for name, model in models.items():
                wait_for(running.port, model)
                ways = {
                    "format": lambda model=model: by_format(server.host, model),
                    "rendered": lambda model=model: by_rendering(server.host, model),
                    "Tandem": lambda model=model: through_tandem(running.port, model),
                }
                costs = measure(ways, server.group, running.process.pid)
                reference = median(costs["format"].seconds)
                for way, cost in costs.items():
                    times = f"{cost.ollama / ANSWERS * 1e3:.0f} | {cost.tandem / ANSWERS * 1e3:.1f}"
                    print(f"| {name} | {way} | {times} | {median(cost.seconds) / reference:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:] or list(CLASSES))
