"""The program `claude` of Anthropic's package `@anthropic-ai/claude-code` against the server.

The program is the one on the PATH, or that in `TANDEM_CLAUDE`; the model is scripted.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend
from servers.served import served

from adapters.backend import Model
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.request import GenerationRequest, Message

pytestmark = pytest.mark.clients

MODEL = "claude-local"
SECONDS = 100
USAGE = Usage(prompt_tokens=10, completion_tokens=5)
SAID = "It is done."


@pytest.fixture
def claude() -> str:
    program = os.environ.get("TANDEM_CLAUDE") or shutil.which("claude")
    if program is None:
        pytest.skip("`claude` is not on the PATH, and TANDEM_CLAUDE is not set to its path")
    return program


class CallingBackend(ScriptedBackend):
    """Calls one tool after the other, and says something once it has all results."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        super().__init__(models=[Model(name=MODEL)])
        self.calls = calls

    def _steps(self, request: GenerationRequest) -> Sequence[Event]:
        results = len(results_of(request))
        if results == len(self.calls):
            return [Started(), ReasoningDelta("Hm."), TextDelta(SAID), Finished("stop", USAGE)]
        name, arguments = self.calls[results]
        text = json.dumps(arguments)
        return [
            Started(),
            TextDelta("I call a tool."),
            ToolCallStarted(0, f"call_{results}", name),
            ToolCallDelta(0, text[:7]),
            ToolCallDelta(0, text[7:]),
            Finished("tool_calls", USAGE),
        ]


def results_of(request: GenerationRequest) -> list[Message]:
    assert isinstance(request.prompt, tuple)
    return [message for message in request.prompt if message.role == "tool"]


async def answer_of(claude: str, backend: ScriptedBackend, folder: Path, *arguments: str) -> str:
    """Run one prompt in `folder`, with a home and settings of its own."""
    home = folder / "home"
    home.mkdir()
    async with served(backend) as port:
        process = await asyncio.create_subprocess_exec(
            *(claude, "-p", "Do it.", *arguments),
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
                "ANTHROPIC_AUTH_TOKEN": "x",
                "ANTHROPIC_MODEL": MODEL,
                "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return out.decode()


async def test_answer(claude: str, tmp_path: Path):
    backend = CallingBackend()
    assert SAID in await answer_of(claude, backend, tmp_path)
    prompt = backend.requests[0].prompt
    assert isinstance(prompt, tuple)
    assert "x-anthropic-billing-header" not in "".join(message.text for message in prompt)


async def test_tool_round_trip(claude: str, tmp_path: Path):
    (tmp_path / "a.txt").write_text("Hello world\n")
    backend = CallingBackend(("Read", {"file_path": str(tmp_path / "a.txt")}))
    assert SAID in await answer_of(claude, backend, tmp_path)
    [result] = results_of(backend.requests[-1])
    assert "Hello world" in result.text
    # One session has one cache.
    assert len({request.client for request in backend.requests}) == 1


async def test_file_is_edited(claude: str, tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("Hello world\n")
    edit = {"file_path": str(file), "old_string": "world", "new_string": "Tandem"}
    backend = CallingBackend(("Read", {"file_path": str(file)}), ("Edit", edit))
    await answer_of(claude, backend, tmp_path, "--permission-mode", "acceptEdits")
    assert file.read_text() == "Hello Tandem\n"
