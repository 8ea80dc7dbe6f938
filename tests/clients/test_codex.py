"""The program `codex` of OpenAI's package `@openai/codex`, over HTTP and over a WebSocket.

The model is scripted.
"""

from pathlib import Path

import pytest
from clients.agents import run_codex
from clients.calling_backend import SAID, CallingBackend, results_of

from adapters.request import Lark

pytestmark = [pytest.mark.clients, pytest.mark.parametrize("websockets", [False, True])]

PATCH = """*** Begin Patch
*** Update File: a.txt
@@
-Hello world
+Hello Tandem
*** End Patch
"""


async def test_answer(tmp_path: Path, websockets: bool):
    assert SAID in await run_codex(CallingBackend("m"), tmp_path, websockets)


async def test_tool_round_trip(tmp_path: Path, websockets: bool):
    backend = CallingBackend("m", ("exec_command", {"cmd": "echo Hello from $((40 + 2))"}))
    assert SAID in await run_codex(backend, tmp_path, websockets)
    [result] = results_of(backend.requests[-1])
    assert "Hello from 42" in result.text
    # One session has one cache.
    assert len({request.client for request in backend.requests}) == 1


async def test_file_is_edited_by_a_patch(tmp_path: Path, websockets: bool):
    file = tmp_path / "a.txt"
    file.write_text("Hello world\n")
    backend = CallingBackend("m", ("apply_patch", {"input": PATCH}))
    assert SAID in await run_codex(backend, tmp_path, websockets)
    assert file.read_text() == "Hello Tandem\n"
    [tool] = [tool for tool in backend.requests[0].tools if tool.name == "apply_patch"]
    assert isinstance(tool.input_format, Lark)
