"""Codex, Claude Code and the Claude Agent SDK, each run once in a folder with its own home."""

import asyncio
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend
from servers.served import served

from tools.install_clients import environments

SECONDS = 300
_CLAUDE = "node_modules/@anthropic-ai/claude-code-*/claude"
_PROGRAMS = Path(__file__).parent / "programs"
_CATALOG_ENTRY: dict[str, Any] = {
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
"""Codex offers `apply_patch` only for models of its catalog that have it."""


def codex_path() -> str:
    return str(_installed("codex") / "node_modules" / ".bin" / "codex")


def claude_path() -> str:
    """`TANDEM_CLAUDE` is the path of another one than that of pins.toml."""
    if program := os.environ.get("TANDEM_CLAUDE"):
        return program
    return str(next(_installed("claude_code").glob(_CLAUDE)))


def _installed(name: str) -> Path:
    environment = environments()[name]
    if not environment.is_installed:
        pytest.skip(f"run `python tools/install_clients.py {name}` first")
    return environment.folder


async def run_codex(backend: ScriptedBackend, folder: Path, websockets: bool = False) -> str:
    program, home, log = codex_path(), folder / "home", io.StringIO()
    home.mkdir()
    model = _only_model(backend)
    catalog = {"models": [{"slug": model, "display_name": model, **_CATALOG_ENTRY}]}
    (home / "catalog.json").write_text(json.dumps(catalog))
    async with served(backend, log=log) as port:
        (home / "config.toml").write_text(f"""
model = "{model}"
model_provider = "tandem"
model_catalog_json = "{home / "catalog.json"}"

[model_providers.tandem]
name = "Tandem"
base_url = "http://127.0.0.1:{port}/v1"
wire_api = "responses"
supports_websockets = {str(websockets).lower()}
""")
        options = ("--skip-git-repo-check", "--sandbox", "danger-full-access")
        out = await _run(folder, {"CODEX_HOME": str(home)}, program, "exec", *options, "Do it.")
    assert ("method=GET path=/v1/responses" in log.getvalue()) is websockets
    return out


async def run_claude(backend: ScriptedBackend, folder: Path, *arguments: str) -> str:
    return await _run_with_claude(backend, folder, claude_path(), "-p", "Do it.", *arguments)


async def run_agent_sdk(backend: ScriptedBackend, folder: Path) -> str:
    """Run a program of the Claude Agent SDK, which has a tool of its own."""
    packages = _installed("claude_agent_sdk") / "node_modules"
    (folder / "node_modules").symlink_to(packages)
    program = shutil.copy(_PROGRAMS / "claude_agent_sdk.mjs", folder)
    return await _run_with_claude(backend, folder, "node", str(program))


async def _run_with_claude(backend: ScriptedBackend, folder: Path, *command: str) -> str:
    """Run `command` with the variables by which Claude Code finds the server of `backend`."""
    model = _only_model(backend)
    (folder / "home").mkdir()
    async with served(backend) as port:
        variables = {
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
            "ANTHROPIC_AUTH_TOKEN": "x",
            "ANTHROPIC_MODEL": model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        return await _run(folder, variables, *command)


def _only_model(backend: ScriptedBackend) -> str:
    assert not isinstance(backend.models, Exception | str)
    (model,) = backend.models
    return model.name


async def _run(folder: Path, variables: dict[str, str], *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder / "home"), **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return out.decode()
