"""The program `claude` of Anthropic's `@anthropic-ai/claude-code`; the model is scripted."""

from pathlib import Path

import pytest
from clients.agents import run_claude
from clients.calling_backend import SAID, CallingBackend, results_of

pytestmark = pytest.mark.clients

MODEL = "claude-local"


async def test_answer(tmp_path: Path):
    backend = CallingBackend(MODEL)
    assert SAID in await run_claude(backend, tmp_path)
    prompt = backend.requests[0].prompt
    assert isinstance(prompt, tuple)
    assert "x-anthropic-billing-header" not in "".join(message.text for message in prompt)


async def test_tool_round_trip(tmp_path: Path):
    (tmp_path / "a.txt").write_text("Hello world\n")
    backend = CallingBackend(MODEL, ("Read", {"file_path": str(tmp_path / "a.txt")}))
    assert SAID in await run_claude(backend, tmp_path)
    [result] = results_of(backend.requests[-1])
    assert "Hello world" in result.text
    # One session has one cache.
    assert len({request.client for request in backend.requests}) == 1


async def test_file_is_edited(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("Hello world\n")
    edit = {"file_path": str(file), "old_string": "world", "new_string": "Tandem"}
    backend = CallingBackend(MODEL, ("Read", {"file_path": str(file)}), ("Edit", edit))
    await run_claude(backend, tmp_path, "--permission-mode", "acceptEdits")
    assert file.read_text() == "Hello Tandem\n"
