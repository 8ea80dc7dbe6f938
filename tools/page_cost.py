"""Measure what an open page costs a server under load, and whether page or server leak.

    python -m tools.page_cost [--minutes 60] [--clients 16]

A server in a process of its own writes answers to each client, five words a second, over and over.
For a while no page is open, then Chromium shows one. Prints the server's share of a core without
and with the page, its memory, and the page's heap and nodes after a garbage collection, as they
were after a tenth of the time and at the end.
"""

import argparse
import asyncio
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import uvloop
from msgspec import Struct
from playwright.async_api import CDPSession, Page

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fakes.browser import opened_page  # noqa: E402

from proxy.app import create_app  # noqa: E402
from proxy.bench.developers.child_process import (  # noqa: E402
    cpu_seconds,
    free_port,
    listening,
    running,
)
from proxy.bench.developers.paced_backend import MODEL, Pace, PacedBackend  # noqa: E402
from proxy.config import Config, ServerConfig  # noqa: E402
from proxy.http.server import Server  # noqa: E402

_ANSWER_SECONDS = 1.6
"""For eight words."""
_BASE_SHARE = 0.2
"""Part of the time without a page."""


class Sizes(Struct, frozen=True):
    server_mib: float
    heap_mib: float
    nodes: int


def serve(port: int) -> None:
    """Serve until the process is killed."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(server=ServerConfig(port=port, state_folder=folder))
        backend = PacedBackend("echo", Pace(seconds=_ANSWER_SECONDS), asyncio.sleep)
        app = create_app(config, {"echo": backend})
        listener = socket.create_server(("127.0.0.1", port))
        Server(app, config.server, app.state.parts.grace, lambda: None).run(sockets=[listener])


async def ask(port: int, until: float) -> int:
    """Stream one answer after the other until the loop's time; return how many there were."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    loop, answers = asyncio.get_running_loop(), 0
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        while loop.time() < until:
            response = await client.post("/v1/chat/completions", json=body)
            response.raise_for_status()
            answers += 1
    return answers


async def load(port: int, pid: int, clients: int, seconds: float) -> tuple[float, int]:
    """Return the server's share of a core under load, and the number of answers."""
    until = asyncio.get_running_loop().time() + seconds
    before = cpu_seconds(pid)
    answers = await asyncio.gather(*(ask(port, until) for _ in range(clients)))
    return (cpu_seconds(pid) - before) / seconds, sum(answers)


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(resident.split()[1]) / 1024


async def sizes(pid: int, session: CDPSession) -> Sizes:
    await session.send("HeapProfiler.collectGarbage")
    heap = await session.send("Runtime.getHeapUsage")
    counters = await session.send("Memory.getDOMCounters")
    return Sizes(resident_mib(pid), heap["usedSize"] / 2**20, counters["nodes"])


async def measure(minutes: float, clients: int) -> None:
    port, seconds = free_port(), minutes * 60
    with tempfile.TemporaryFile() as log:
        async with AsyncExitStack() as stack:
            command = (sys.executable, "-m", "tools.page_cost", "--serve", str(port))
            server = await stack.enter_async_context(running(*command, log=log))
            await listening(port)
            await load(port, server.pid, clients, min(10.0, seconds))
            base, _ = await load(port, server.pid, clients, seconds * _BASE_SHARE)
            page, problems = await stack.enter_async_context(opened_page(port, "now"))
            session = await _session(page)
            first, _ = await load(port, server.pid, clients, seconds * 0.1)
            early = await sizes(server.pid, session)
            share, answers = await load(port, server.pid, clients, seconds)
            late = await sizes(server.pid, session)
    print(f"{clients} clients, {answers} answers in {minutes:g} minutes with the page open")
    print(f"server's CPU, share of a core: {base:.2%} without, {share:.2%} with the page")
    print(f"the page costs {share - base:.2%} of a core (its first tenth: {first - base:.2%})")
    for name, then, now in zip(
        ("server's memory, MiB", "page's heap, MiB", "page's nodes"),
        (early.server_mib, early.heap_mib, early.nodes),
        (late.server_mib, late.heap_mib, late.nodes),
        strict=True,
    ):
        print(f"{name}: {then:.1f} after a tenth of the time, {now:.1f} at the end")
    print(f"problems of the page: {problems or 'none'}")


async def _session(page: Page) -> CDPSession:
    session = await page.context.new_cdp_session(page)
    await session.send("HeapProfiler.enable")
    return session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    else:
        uvloop.run(measure(arguments.minutes, arguments.clients))


if __name__ == "__main__":
    main()
