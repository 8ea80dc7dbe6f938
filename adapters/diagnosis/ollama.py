"""One Ollama as its API shows it, and the settings of its process where they can be read."""

import asyncio
import platform
import shutil
import socket
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

from adapters.upstream.address import to_address

SETTINGS = ("OLLAMA_NUM_PARALLEL", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_FLASH_ATTENTION")
"""Variables of Ollama's server that change its speed. Its API does not report them.

Source: https://github.com/ollama/ollama/blob/main/envconfig/config.go
"""
_SECONDS = 3.0
_PROC = Path("/proc")
_LOCAL = ("127.0.0.1", "localhost", "::1")


class OllamaState(Struct, frozen=True, kw_only=True):
    address: str
    version: str | None = None
    problem: str | None = None
    """A sentence, where no Ollama responds as it should."""
    trouble: Literal["away", "silent", "refused", "other"] | None = None
    """The kind of the problem: nothing there, no answer, a key is wanted, another program."""
    models: int | None = None
    loaded: dict[str, int] = {}
    """Loaded model -> tokens of its context, where Ollama reports them."""
    settings: Mapping[str, str] | None = None
    """The variables of `SETTINGS` that are set; `None`: the process cannot be read."""


async def find_state(address: str, key: str | None = None) -> OllamaState:
    """Ask the Ollama at `address`, with the key of a proxy before it.

    Never raises; takes a few seconds at most.
    """
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=address, headers=headers, timeout=_SECONDS, trust_env=False
    ) as client:
        try:
            async with asyncio.timeout(2 * _SECONDS):
                version = (await client.get("/api/version")).raise_for_status().json()["version"]
                tags = (await client.get("/api/tags")).raise_for_status().json()["models"]
                running = (await client.get("/api/ps")).raise_for_status().json()["models"]
                loaded = {m["name"]: m["context_length"] for m in running if "context_length" in m}
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as exc:
            return _troubled(address, exc)
    return OllamaState(
        address=address,
        version=version,
        models=len(tags),
        loaded=loaded,
        settings=await _settings(address),
    )


def _troubled(address: str, error: Exception) -> OllamaState:
    match error:
        case httpx.ConnectError() if any(isinstance(e, socket.gaierror) for e in _causes(error)):
            trouble, problem = "away", f"The name in {address} is not known."
        case httpx.ConnectError() | httpx.ConnectTimeout():
            trouble, problem = "away", f"Nothing listens at {address}."
        case httpx.TimeoutException() | TimeoutError():
            trouble, problem = "silent", f"{address} accepts and does not answer."
        case httpx.HTTPStatusError() if error.response.status_code in (401, 403):
            status = error.response.status_code
            trouble, problem = "refused", f"{address} refuses the request (status {status})."
        case _:
            trouble = "other"
            problem = f"{address} is not Ollama: it does not answer /api/version as Ollama does."
    return OllamaState(address=address, problem=problem, trouble=trouble)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


async def _settings(address: str) -> Mapping[str, str] | None:
    """The variables of the server's process; `None` if it runs elsewhere, or for another user."""
    if urlsplit(address).hostname not in _LOCAL:
        return None
    if platform.system() == "Darwin":
        return await _settings_of_the_session()
    for environment in _environments(_PROC):
        if _is_at(environment, address):
            return {name: environment[name] for name in SETTINGS if name in environment}
    return None


def _environments(proc: Path) -> Iterator[dict[str, str]]:
    """The environment of each `ollama serve` of this user, by Linux's /proc."""
    for folder in proc.glob("[0-9]*"):
        with suppress(OSError):  # It has ended, or belongs to another user.
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if Path(words[0].decode(errors="replace")).name == "ollama" and b"serve" in words:
                pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                yield dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _is_at(environment: Mapping[str, str], address: str) -> bool:
    listens = urlsplit(to_address(environment.get("OLLAMA_HOST") or "127.0.0.1"))
    return listens.port == urlsplit(address).port


async def _settings_of_the_session() -> Mapping[str, str] | None:
    """The variables of applications on a Mac, which Ollama's app reads at its start."""
    if (launchctl := shutil.which("launchctl")) is None:
        return None
    found: dict[str, str] = {}
    for name in SETTINGS:
        child = await asyncio.create_subprocess_exec(launchctl, "getenv", name, stdout=PIPE)
        output, _ = await child.communicate()
        if value := output.decode().strip():
            found[name] = value
    return found
