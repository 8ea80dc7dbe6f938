"""The table of docs/models.md: what every class of Ollama's models does through Tandem.

`uv run python tools/ollama_classes.py [CLASS …]` starts an Ollama and a Tandem of its own, creates
a model of each class from SmolLM2, and prints the outcome of every probe.
`TANDEM_CHAT_TEMPLATES` names a folder of further Jinja templates.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from probes.class_probes import PROBES, cells, wait_for  # noqa: E402
from servers.ollama_classes import create_classes, every_class  # noqa: E402
from servers.ollama_server import own_ollama  # noqa: E402
from servers.server_process import serving, write  # noqa: E402


def main(names: list[str]) -> None:
    with own_ollama() as server, tempfile.TemporaryDirectory() as folder:
        models = create_classes(server, names)
        text = f"backends: {{mlx: null, ollama: {{host: '{server.host}'}}}}"
        with serving(write(Path(folder), text)) as running:
            right = total = 0
            print("| class |", " | ".join(PROBES), "|")
            for name, model in models.items():
                wait_for(running.port, model)
                outcome = dict(cells(running.port, model))
                marks = [text.partition(" ")[0].rstrip(":") for text in outcome.values()]
                print(f"| {name} |", " | ".join(marks), "|", flush=True)
                for probe, text in outcome.items():
                    if text != "ok":
                        print(f"    {probe}: {text[:200]}")
                right += sum(mark == "ok" for mark in marks)
                total += len(marks)
            print(f"{right} of {total}")


if __name__ == "__main__":
    main(sys.argv[1:] or every_class())
