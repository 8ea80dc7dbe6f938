"""The program `claude` of Anthropic's package `@anthropic-ai/claude-code`; the model is scripted.

Its version is in pins.toml; `TANDEM_CLAUDE` is the path of another one.
"""

import asyncio
import os
from pathlib import Path

import pytest
from clients.calling_backend import SAID, CallingBackend, results_of
from fakes.scripted_backend import ScriptedBackend
from servers.served import served

from tools.install_clients import environments

pytestmark = pytest.mark.clients

MODEL = "claude-local"
SECONDS = 100
_BINARY = "node_modules/@anthropic-ai/claude-code-*/claude"


@pytest.fixture
def claude() -> str:
    if program := os.environ.get("TANDEM_CLAUDE"):
        return program
    found = sorted(environments()["claude_code"].folder.glob(_BINARY))
    if not found:
        pytest.skip("run `python tools/install_clients.py claude_code` first")
    return str(found[0])


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
    backend = CallingBackend(MODEL)
    assert SAID in await answer_of(claude, backend, tmp_path)
    prompt = backend.requests[0].prompt
    assert isinstance(prompt, tuple)
    assert "x-anthropic-billing-header" not in "".join(message.text for message in prompt)


async def test_tool_round_trip(claude: str, tmp_path: Path):
    (tmp_path / "a.txt").write_text("Hello world\n")
    backend = CallingBackend(MODEL, ("Read", {"file_path": str(tmp_path / "a.txt")}))
    assert SAID in await answer_of(claude, backend, tmp_path)
    [result] = results_of(backend.requests[-1])
    assert "Hello world" in result.text
    # One session has one cache.
    assert len({request.client for request in backend.requests}) == 1


async def test_file_is_edited(claude: str, tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("Hello world\n")
    edit = {"file_path": str(file), "old_string": "world", "new_string": "Tandem"}
    backend = CallingBackend(MODEL, ("Read", {"file_path": str(file)}), ("Edit", edit))
    await answer_of(claude, backend, tmp_path, "--permission-mode", "acceptEdits")
    assert file.read_text() == "Hello Tandem\n"
