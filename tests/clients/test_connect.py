"""Settings of `tandem connect` in the real clients, against a scripted model.

Clients are the environments of `tools/install_clients.py`, or programs named by variables such as
`TANDEM_AIDER`, or on the PATH.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes.scripted_backend import ScriptedBackend
from servers.served import served
from servers.server_process import command

from adapters.backend import Model
from tools.install_clients import environments

pytestmark = pytest.mark.clients

MODEL = Model(
    name="local", context_length=64_000, capabilities=frozenset({"chat", "tools"}), loaded=True
)
SAID = "Hello"
SECONDS = 100


def program(name: str, environment: str) -> str:
    """The path of a program; the test is skipped where there is none."""
    known = environments().get(environment)
    if known is not None:
        packages = known.folder / "node_modules"
        # Claude Code is a program in a package for this system.
        for path in (
            *packages.glob("@anthropic-ai/claude-code-*/claude"),
            packages / ".bin" / name,
        ):
            if path.exists():
                return str(path)
    found = os.environ.get(f"TANDEM_{name.upper()}") or shutil.which(name)
    if found is None:
        pytest.skip(
            f"`{name}` is not on the PATH, and TANDEM_{name.upper()} is not set to its path"
        )
    return found


@asynccontextmanager
async def connected(client: str, home: Path) -> AsyncIterator[dict[str, str]]:
    """The environment of a client after `tandem connect CLIENT --write`, with a server."""
    async with served(ScriptedBackend(models=[MODEL])) as port:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TANDEM_URL": f"http://127.0.0.1:{port}",
        }
        await run(*command("connect", client, "--write", "--yes"), folder=home, env=environment)
        yield environment


async def run(*words: str, folder: Path, env: dict[str, str]) -> str:
    """Standard output of a program that succeeds."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=folder,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return out.decode()


async def test_codex_answers_with_its_settings(tmp_path: Path):
    codex = program("codex", "codex")
    options = ("--skip-git-repo-check", "--sandbox", "danger-full-access")
    async with connected("codex", tmp_path) as env:
        assert SAID in await run(codex, "exec", *options, "Do it.", folder=tmp_path, env=env)


async def test_claude_code_answers_with_its_settings(tmp_path: Path):
    claude = program("claude", "claude_code")
    async with connected("claude-code", tmp_path) as env:
        assert SAID in await run(claude, "-p", "Do it.", folder=tmp_path, env=env)


async def test_continue_answers_with_its_settings(tmp_path: Path):
    cn = program("cn", "continue")
    async with connected("continue", tmp_path) as env:
        settings = str(tmp_path / ".continue" / "config.yaml")
        words = ("-p", "Do it.", "--config", settings)
        assert SAID in await run(cn, *words, folder=tmp_path, env=env)


async def test_aider_answers_with_its_settings(tmp_path: Path):
    aider = program("aider", "aider")
    options = ("--no-git", "--no-check-update", "--no-show-model-warnings", "--yes-always")
    async with connected("aider", tmp_path) as env:
        quiet = env | {"AIDER_ANALYTICS": "false"}
        words = (*options, "--message", "Do it.")
        assert SAID in await run(aider, *words, folder=tmp_path, env=quiet)


PYTHON = {
    "openai-python": None,
    "anthropic-python": None,
    "ollama-python": None,
    "langchain": "langchain",
    "llamaindex": "llama_index",
}
NODE = {"openai-node": "openai_node", "ai-sdk": "vercel_ai"}


async def printed(client: str, port: int, folder: Path) -> str:
    """The lines that `tandem connect CLIENT` prints, without its comments."""
    env = os.environ | {"TANDEM_URL": f"http://127.0.0.1:{port}"}
    text = await run(*command("connect", client), folder=folder, env=env)
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


@pytest.mark.parametrize(("client", "environment"), PYTHON.items())
async def test_lines_of_python_answer(client: str, environment: str | None, tmp_path: Path):
    python = sys.executable
    if environment is not None:
        known = environments()[environment]
        if not known.is_installed:
            pytest.skip(f"run `python tools/install_clients.py {environment}` first")
        python = str(known.python)
    async with served(ScriptedBackend(models=[MODEL])) as port:
        code = await printed(client, port, tmp_path)
        assert SAID in await run(python, "-c", code, folder=tmp_path, env={**os.environ})


@pytest.mark.parametrize(("client", "environment"), NODE.items())
async def test_lines_of_node_answer(client: str, environment: str, tmp_path: Path):
    known = environments()[environment]
    if not known.is_installed:
        pytest.skip(f"run `python tools/install_clients.py {environment}` first")
    # Node looks for packages beside the file.
    (tmp_path / "node_modules").symlink_to(known.folder / "node_modules")
    async with served(ScriptedBackend(models=[MODEL])) as port:
        (tmp_path / "it.mjs").write_text(await printed(client, port, tmp_path))
        assert SAID in await run("node", "it.mjs", folder=tmp_path, env={**os.environ})


async def test_variables_of_openai_are_read(tmp_path: Path):
    async with served(ScriptedBackend(models=[MODEL])) as port:
        line = await printed("environment", port, tmp_path)
        code = (
            "import openai; print(openai.OpenAI().chat.completions.create(model='local',"
            " messages=[{'role': 'user', 'content': 'Hi'}]).choices[0].message.content)"
        )
        shell = f'{line.strip()}\n"{sys.executable}" -c "{code}"'
        assert SAID in await run("bash", "-c", shell, folder=tmp_path, env={**os.environ})
