import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from fakes.scripted_backend import ScriptedBackend
from msgspec.structs import fields
from parameter_table import ASKING, ROOT, cells, with_table

from adapters.backend import Model
from proxy.app import create_app
from proxy.config import Config
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest


def test_the_readmes_table_is_what_the_code_does() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme), "run `uv run python tests/parameter_table.py`"


def test_the_table_has_every_field() -> None:
    names = {field.name for field in fields(ChatCompletionRequest)}
    assert {name.partition(":")[0] for name in ASKING} == names


def test_the_table_tells_the_backends_apart() -> None:
    assert cells("logit_bias") == ["yes", "400"]
    assert cells("temperature") == ["yes", "yes"]
    assert cells("user") == ["no effect", "no effect"]
    assert cells("options") == ["400", "yes"]
    assert cells("mirostat") == ["400", "400"]


def test_the_examples_without_a_server_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The model that comes along is offered where there is no other.
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (one,) = [each for each in examples if "import open_backend\n" in each]
    (both,) = [each for each in examples if "import open_router\n" in each]
    # In one process: to import mlx takes longer than to answer.
    command = [sys.executable, "-c", f"{one}\n{both}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Paris") == 2


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """The port of a server whose MLX says what it was told to: the examples are what is tried."""
    mlx = ScriptedBackend(kind="mlx", models=[Model(name="SmolLM2-135M-Instruct")])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(Config(), {"mlx": mlx})
        server = uvicorn.Server(uvicorn.Config(app, ws="none", log_level="error"))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def run(port: int, *command: str) -> str:
    """What `command` says, which asks the server on `port` where the README names its own."""
    process = await asyncio.create_subprocess_exec(
        *(part.replace("127.0.0.1:8006", f"127.0.0.1:{port}") for part in command),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no `curl` on PATH")
async def test_the_examples_with_curl_answer() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (examples,) = re.findall(r"```sh\n(curl .*?)```", readme, re.DOTALL)
    commands = re.findall(r"^curl .*?[^\\]$", examples, re.DOTALL | re.MULTILINE)
    assert len(commands) == examples.count("curl ") > 5
    async with served() as port:
        for command in commands:
            said = await run(port, "bash", "-c", command)
            answers = [json.loads(line) for line in said.splitlines()]
            assert answers
            assert all("error" not in answer for answer in answers)


async def test_the_example_with_ollamas_client_answers() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(from ollama import Client\n.*?)```", readme, re.DOTALL)
    async with served() as port:
        assert await run(port, sys.executable, "-c", example) == "Hello"
