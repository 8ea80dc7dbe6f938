"""The program `codex` of OpenAI's package `@openai/codex`, over HTTP and over a WebSocket.

The model is scripted. Codex offers `apply_patch` only for models of its catalog that have it.
"""

import asyncio
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from clients.calling_backend import SAID, CallingBackend, results_of
from fakes.scripted_backend import ScriptedBackend
from servers.served import served

from adapters.request import Lark
from tools.install_clients import environments

pytestmark = [pytest.mark.clients, pytest.mark.parametrize("websockets", [False, True])]

MODEL = "local"
SECONDS = 100
CATALOG: dict[str, Any] = {
    "models": [
        {
            "slug": MODEL,
            "display_name": MODEL,
            "base_instructions": "You are Codex.",
            "apply_patch_tool_type": "freeform",
            "shell_type": "unified_exec",
            "context_window": 64_000,
            "input_modalities": ["text"],
            "truncation_policy": {"mode": "tokens", "limit": 10_000},
            "supported_reasoning_levels": [],
            "supports_parallel_tool_calls": True,
            "support_verbosity": False,
            "experimental_supported_tools": [],
            "visibility": "list",
            "supported_in_api": True,
            "priority": 1,
        }
    ]
}
PATCH = """*** Begin Patch
*** Update File: a.txt
@@
-Hello world
+Hello Tandem
*** End Patch
"""


@pytest.fixture
def codex() -> str:
    environment = environments()["codex"]
    if not environment.is_installed:
        pytest.skip("run `python tools/install_clients.py codex` first")
    return str(environment.folder / "node_modules" / ".bin" / "codex")


async def answer_of(codex: str, backend: ScriptedBackend, folder: Path, websockets: bool) -> str:
    """Run one prompt in `folder`, with a home and settings of its own."""
    home = folder / "home"
    home.mkdir()
    (home / "catalog.json").write_text(json.dumps(CATALOG))
    log = io.StringIO()
    async with served(backend, log=log) as port:
        (home / "config.toml").write_text(_settings(home, port, websockets))
        process = await asyncio.create_subprocess_exec(
            *(codex, "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "Do it."),
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    assert ("method=GET path=/v1/responses" in log.getvalue()) is websockets
    return out.decode()


def _settings(home: Path, port: int, websockets: bool) -> str:
    return f"""
model = "{MODEL}"
model_provider = "tandem"
model_catalog_json = "{home / "catalog.json"}"

[model_providers.tandem]
name = "Tandem"
base_url = "http://127.0.0.1:{port}/v1"
wire_api = "responses"
supports_websockets = {str(websockets).lower()}
"""


async def test_answer(codex: str, tmp_path: Path, websockets: bool):
    assert SAID in await answer_of(codex, CallingBackend(MODEL), tmp_path, websockets)


async def test_tool_round_trip(codex: str, tmp_path: Path, websockets: bool):
    backend = CallingBackend(MODEL, ("exec_command", {"cmd": "echo Hello from $((40 + 2))"}))
    assert SAID in await answer_of(codex, backend, tmp_path, websockets)
    [result] = results_of(backend.requests[-1])
    assert "Hello from 42" in result.text
    # One session has one cache.
    assert len({request.client for request in backend.requests}) == 1


async def test_file_is_edited_by_a_patch(codex: str, tmp_path: Path, websockets: bool):
    file = tmp_path / "a.txt"
    file.write_text("Hello world\n")
    backend = CallingBackend(MODEL, ("apply_patch", {"input": PATCH}))
    assert SAID in await answer_of(codex, backend, tmp_path, websockets)
    assert file.read_text() == "Hello Tandem\n"
    [tool] = [tool for tool in backend.requests[0].tools if tool.name == "apply_patch"]
    assert isinstance(tool.input_format, Lark)
