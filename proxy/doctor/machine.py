"""Checks of the configuration, the machine, and the port of the server."""

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import httpx
from msgspec import Struct

from adapters.config import MLXConfig, make_private_folder
from adapters.diagnosis.mlx import Device, find_device
from proxy.access.keys import KEY_FILE, KEY_VARIABLE, check_server, find_own_key
from proxy.cli.running_server import to_url
from proxy.cli.version import versions
from proxy.config import (
    Config,
    ConfigError,
    duplicates,
    find_config,
    load_config,
    state_folder,
)
from proxy.doctor.report import Check
from proxy.memory.budget import default_budget
from proxy.own_address import without_itself

_MARK = "x-tandem-backend"
_GIB = 1024**3
_LOW_DISK = 5 * _GIB
_SECONDS = 3.0
_LOCAL = ("localhost", "127.0.0.1")


class Examined(Struct):
    """The settings as far as they can be read; the defaults where they cannot."""

    config: Config
    file: Path | None
    checks: dict[str, Check]


def examine_config(option: str | None, environ: Mapping[str, str]) -> Examined:
    """Read the settings, and report every problem with file, line and key."""
    path = find_config(option, environ)
    try:
        config = without_itself(load_config(path, environ))
        check_server(config.server, environ)
    except ConfigError as exc:
        count = len(exc.problems)
        check = Check(
            category="configuration",
            status="fail",
            summary="; ".join(str(problem) for problem in exc.problems),
            details={
                "problems": [
                    {"file": p.file, "line": p.line, "key": p.key, "message": p.message}
                    for p in exc.problems
                ]
            },
            remediation=f"Correct {'it' if count == 1 else f'these {count} problems'}; `tandem "
            "config check` checks again. The checks below use the defaults.",
        )
        return Examined(Config(), path, {"config.file": check})
    summary = f"{path} is valid" if path is not None else "No config.yaml: the defaults are in use"
    check = Check(category="configuration", status="ok", summary=summary)
    return Examined(config, path, {"config.file": check, **_backends(config)})


def _backends(config: Config) -> dict[str, Check]:
    enabled = ", ".join(config.enabled())
    twice = [f"{first} and {other} ({address})" for first, other, address in duplicates(config)]
    if not enabled:
        check = Check(
            category="configuration",
            status="fail",
            summary="No backend is switched on",
            remediation="Switch one on, as in `backends: {ollama: true}`.",
        )
    elif twice:
        check = Check(
            category="configuration",
            status="warning",
            summary=f"Two backends are the same server: {'; '.join(twice)}",
            remediation="Switch one off, as in `NAME: null`: models and memory count twice.",
        )
    else:
        check = Check(category="configuration", status="ok", summary=f"Backends: {enabled}")
    return {"config.backends": check}


async def check_versions() -> dict[str, Check]:
    found = versions()
    text = f"Tandem {found['tandem']}, Python {found['python']}, {found['system']}"
    check = Check(category="machine", status="ok", summary=text, details=dict(found))
    return {"machine.versions": check}


async def check_device(config: Config) -> dict[str, Check]:
    """The device of MLX, if MLX is switched on, and the memory for models."""
    if config.of_kind(MLXConfig) is None:
        check = Check(category="machine", status="ok", summary="MLX is switched off")
        return {"machine.device": check, "machine.memory": _memory(config, None)}
    device = await find_device()
    if isinstance(device, str):
        check = Check(
            category="machine",
            status="fail",
            summary=device,
            remediation="Install it again, or switch it off with `backends: {mlx: null}`.",
        )
        return {"machine.device": check, "machine.memory": _memory(config, None)}
    memory = _memory(config, device.recommended_bytes)
    return {"machine.device": _describe(device), "machine.memory": memory}


def _describe(device: Device) -> Check:
    speed = "" if device.kind != "CPU" else "; answers are slow without a GPU"
    summary = f"MLX {device.mlx}, mlx-lm {device.mlx_lm} on {device.kind} ({device.name}){speed}"
    details = {"kind": device.kind, "name": device.name}
    return Check(category="machine", status="ok", summary=summary, details=details)


def _memory(config: Config, recommended: int | None) -> Check:
    """`recommended`: bytes that the device recommends for all programs."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    budget = config.server.memory_bytes or default_budget([recommended])
    details = {"memoryBytes": total, "budgetBytes": budget}
    if budget > total:
        return Check(
            category="machine",
            status="warning",
            summary=f"The budget of {budget / _GIB:.1f} GiB is more than the machine's memory of "
            f"{total / _GIB:.1f} GiB",
            details=details,
            remediation="Set `server.memory_bytes` to less, or remove it.",
        )
    summary = f"{total / _GIB:.1f} GiB of memory; the budget for models is {budget / _GIB:.1f} GiB"
    return Check(category="machine", status="ok", summary=summary, details=details)


async def check_disk(config: Config) -> dict[str, Check]:
    """Check that the state folder can be written, and the space beside it."""
    folder = state_folder(config, os.environ)
    try:
        make_private_folder(folder)
        probe = folder / ".doctor"
        probe.write_text("")
        probe.unlink()
    except OSError as exc:
        check = Check(
            category="machine",
            status="fail",
            summary=f"The state folder {folder} cannot be written: {exc.strerror}",
            remediation="Set `server.state_folder` to a folder of yours, or correct this one.",
        )
        return {"machine.state": check}
    free = shutil.disk_usage(folder).free
    room = "Make room: `tandem models` shows sizes, `tandem rm MODEL` deletes one."
    check = Check(
        category="machine",
        status="warning" if free < _LOW_DISK else "ok",
        summary=f"The state folder can be written; {free / _GIB:.0f} GiB are free there",
        details={"folder": str(folder), "freeBytes": free},
        remediation=room if free < _LOW_DISK else None,
    )
    return {"machine.state": check}


async def check_proxy_variables(environ: Mapping[str, str] = os.environ) -> dict[str, Check]:
    """Clients with a proxy in their environment send requests for this machine there, too."""
    proxies = [v for v in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy") if environ.get(v)]
    exempt = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if not proxies or exempt == "*" or any(name in exempt for name in _LOCAL):
        return {}
    check = Check(
        category="machine",
        status="warning",
        summary=f"{proxies[0]} is set, and NO_PROXY does not exempt this machine",
        remediation="Set NO_PROXY=localhost,127.0.0.1: else clients ask the proxy for Tandem.",
    )
    return {"machine.proxy": check}


async def check_port(config: Config) -> dict[str, Check]:
    """Check that the port is free or Tandem's, and not taken by another program."""
    host, port = config.server.host, config.server.port
    url = to_url(host, port)
    try:
        key = find_own_key(os.environ, state_folder(config, os.environ))
    except ValueError as exc:
        return {"server.port": _with_unusable_key(exc)}
    headers = {"authorization": f"Bearer {key}"} if key is not None else {}
    if (problem := _address_problem(host)) is not None:
        return {"server.port": problem}
    try:
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
            response = await client.get(f"{url}/health", headers=headers)
    except httpx.HTTPError as exc:
        return {"server.port": _without_answer(url, host, port, exc)}
    return {"server.port": _with_answer(url, response)}


def _with_unusable_key(reason: ValueError) -> Check:
    return Check(
        category="server",
        status="fail",
        summary=f"The key of this machine's commands cannot be used: {reason}",
        remediation=f"Correct ${KEY_VARIABLE}, or the file `{KEY_FILE}` in the state folder.",
    )


def _without_answer(url: str, host: str, port: int, exc: httpx.HTTPError) -> Check:
    reason = "another program has it"
    if isinstance(exc, httpx.ConnectError):
        reason = _bind_problem(host, port)
    if reason is None:
        return Check(
            category="server",
            status="ok",
            summary=f"No server runs; {url} is free",
            remediation="Start it with `tandem serve`.",
        )
    return Check(
        category="server",
        status="fail",
        summary=f"Port {port} at {host} cannot be used: {reason}",
        remediation=f"End that program, or set `server.port`; {_finder(port)} shows it.",
    )


def _address_problem(host: str) -> Check | None:
    """Describe an address that this machine does not have; `None` if it has it."""
    if (reason := _bind_problem(host, 0)) is None:
        return None
    return Check(
        category="server",
        status="fail",
        summary=f"This machine cannot listen on {host}: {reason}",
        remediation="Set `server.host` to 127.0.0.1, 0.0.0.0, or an address of this machine.",
    )


def _bind_problem(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return None


def _finder(port: int) -> str:
    return f"`lsof -i :{port}`" if shutil.which("lsof") else f"`ss -ltnp 'sport = :{port}'`"


def _with_answer(url: str, response: httpx.Response) -> Check:
    port = httpx.URL(url).port
    if _MARK not in response.headers:
        return Check(
            category="server",
            status="fail",
            summary=f"Another program answers at {url}",
            remediation=f"End it, or set `server.port`; {_finder(port or 0)} shows it.",
        )
    if response.status_code in (401, 403):
        needs = "it needs a key"
        if "authorization" in response.request.headers:
            needs = f"the key of ${KEY_VARIABLE}, or in `{KEY_FILE}`, is none of its own"
        return Check(
            category="server",
            status="warning",
            summary=f"Tandem runs at {url} and refuses this command: {needs}",
            remediation=f"Set ${KEY_VARIABLE} to one of its keys.",
        )
    there, here = response.json().get("version"), versions()["tandem"]
    if there != here:
        return Check(
            category="server",
            status="warning",
            summary=f"Tandem {there} runs at {url}, and {here} is installed",
            remediation="Start it again.",
        )
    return Check(category="server", status="ok", summary=f"Tandem {there} runs at {url}")
