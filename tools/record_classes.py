"""Record what every class of models does: `uv run python tools/record_classes.py [CLASS …]`.

`tests/data/ollama/classes` has a file for each class, in the form of `record_ollama.py`: what
`/api/show` reports, the rendered probes, a thought, a call, and answers that are cut.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import msgspec  # noqa: E402
from servers.ollama_classes import BUILT_IN, IN_GO, IN_JINJA, create_classes  # noqa: E402
from servers.ollama_server import own_ollama  # noqa: E402

from adapters.chat_template import Probe, Refusal, run  # noqa: E402
from adapters.ollama.rendered.renderer import to_probe_body  # noqa: E402
from adapters.ollama.rendered.thought_style import find_style  # noqa: E402
from tools.record_ollama import DATA, exchange  # noqa: E402

JSON = dict[str, Any]
FOLDER = DATA / "classes"
_HELLO = [{"role": "user", "content": "Say hello to Ann."}]
_WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Recorder:
    def __init__(self, host: str, model: str, called: str) -> None:
        """`called`: the name of the model in the recordings."""
        self._host = host
        self._model = model
        self._called = called
        self.exchanges: list[JSON] = []

    def ask(self, about: str, path: str, body: JSON) -> str:
        request = {"method": "POST", "path": path, "body": body | {"model": self._model}}
        response = exchange(self._host, request)
        kept = {
            "about": about,
            "request": request | {"body": body | {"model": self._called}},
            "response": response,
        }
        self.exchanges.append(json.loads(json.dumps(kept).replace(self._model, self._called)))
        return "".join(response["chunks"])

    def render(self, probe: Probe) -> str | Refusal:
        body = msgspec.json.encode(to_probe_body(self._model, probe))
        options = {"num_predict": 1, "num_ctx": 2048}
        read = json.loads(self.ask("a probe", "/api/chat", json.loads(body) | {"options": options}))
        if "error" in read:
            return Refusal(read["error"])
        return read["_debug_info"]["rendered_template"]


def record(host: str, name: str, model: str) -> list[JSON]:
    recorder = Recorder(host, model, f"class-{name}")
    shown = json.loads(recorder.ask("what it reports", "/api/show", {}))
    thinks = "thinking" in shown["capabilities"]
    parser = re.search(r"^PARSER (\S+)$", shown["modelfile"], re.MULTILINE)
    template = shown.get("template", "")
    probing = find_style(
        thinks=thinks,
        template=template if "{%" in template else "",
        parser=parser[1] if parser else "",
    )
    run(probing, recorder.render)
    options = {"temperature": 0, "num_ctx": 2048, "num_predict": 24}
    for about, body in _answers(thinks, "tools" in shown["capabilities"]):
        recorder.ask(about, "/api/chat", body | {"options": options | body.get("options", {})})
    for kept in recorder.exchanges:
        _shorten(kept)
    return recorder.exchanges


def _answers(thinks: bool, calls: bool) -> Iterator[tuple[str, JSON]]:
    yield "an answer, cut", {"messages": _HELLO}
    if thinks:
        yield "a thought, cut", {"messages": _HELLO, "think": True}
        yield "a thought, ended", {"messages": _HELLO, "think": True, "options": {"stop": ["you"]}}
        yield "no thought", {"messages": _HELLO, "think": False}
    if calls:
        yield "a call, cut", {"messages": _WEATHER, "tools": [_TOOL]}


def _shorten(kept: JSON) -> None:
    """Leave out the licence and the list of tensors, which are long and the same for all."""
    if kept["request"]["path"] != "/api/show":
        return
    shown = json.loads("".join(kept["response"]["chunks"]))
    for key in ("license", "tensors"):
        shown.pop(key, None)
    shown["modelfile"] = re.sub(r"/\S+/blobs/", "/models/blobs/", shown["modelfile"])
    kept["response"]["chunks"] = [json.dumps(shown, ensure_ascii=False)]


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with own_ollama() as server:
        for name, model in create_classes(server, names).items():
            exchanges = record(server.host, name, model)
            text = json.dumps(exchanges, indent=1, ensure_ascii=False)
            (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            print(name, len(exchanges), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [*IN_GO, *IN_JINJA, *BUILT_IN])
