"""llm-comply: compliance with the formats of all dialects that the server has."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

URL = os.environ["TANDEM_URL"]
FORMATS = {
    "/v1/chat/completions": ("openai-chat", ()),
    "/v1/responses": ("open-responses", ()),
    "/v1/messages": (
        "anthropic",
        ("--auth-header", "x-api-key", "--no-bearer", "-H", "anthropic-version:2023-06-01"),
    ),
}
"""Path -> format and its options."""
EXEMPT = {
    "chat-image-input": "the model sees no images: a 400 says so",
    "image-input": "the model sees no images: a 400 says so",
    "anth-image-input": "the model sees no images: a 400 says so",
    "chat-tool-calling": "whether it calls a tool is up to the model",
    "tool-calling": "whether it calls a tool is up to the model",
    "anth-tool-calling": "whether it calls a tool is up to the model",
    "reasoning-summary": "the model does not reason",
    "anth-thinking-display": "the model does not reason",
}
"""Test -> the reason why it may fail on a model. A capable one has to call its tool."""
if os.environ["TANDEM_CAPABLE"]:
    EXEMPT = {name: why for name, why in EXEMPT.items() if not name.endswith("tool-calling")}
with urllib.request.urlopen(f"{URL}/openapi.json") as document:
    PATHS = json.load(document)["paths"]
ROUTED = [path for path in FORMATS if path in PATHS]


@pytest.mark.parametrize("path", ROUTED)
def test_format(path: str):
    name, options = FORMATS[path]
    model = os.environ["TANDEM_MODEL"]
    command = [str(Path(sys.executable).parent / "llm-comply"), "--format", name, "--json"]
    server = ["-u", f"{URL}/v1", "-k", "x", "-m", model]
    done = subprocess.run([*command, *server, *options], capture_output=True, text=True)
    results = {result["id"]: result for result in json.loads(done.stdout)["results"]}
    print(json.dumps(results, indent=1))
    assert len(results) >= 9
    failed = {test: result for test, result in results.items() if result["status"] == "failed"}
    assert {test: each["errors"] for test, each in failed.items() if test not in EXEMPT} == {}
    warned = {test: each["warnings"] for test, each in results.items() if each.get("warnings")}
    assert {test: each for test, each in warned.items() if test not in EXEMPT} == {}
