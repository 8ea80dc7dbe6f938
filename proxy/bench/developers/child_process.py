"""Contestants as processes of their own: started, waited for, ended."""

import asyncio
import socket
import subprocess
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

_START_SECONDS = 120.0


@asynccontextmanager
async def running(
    *command: str, log: BinaryIO, stdin: int | None = None
) -> AsyncGenerator[Process]:
    child = await asyncio.create_subprocess_exec(
        *command, stdin=stdin, stdout=PIPE, stderr=log, limit=2**24
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


async def listening(port: int) -> None:
    """Wait until somebody does.

    Raises:
        RuntimeError: nobody did in time.
    """
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.close()
        return
    raise RuntimeError(f"nobody listens on port {port} after {_START_SECONDS:.0f} s")


def cpu_seconds(pid: int) -> float:
    """User and system time of the threads that `pid` has.

    To the nanosecond on Linux (the first field of each `schedstat`: `stat` tells hundredths of a
    second, of which a measurement here has only a few), hundredths elsewhere (`ps`).
    """
    threads = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
    if threads:
        return sum(int(each.read_text().split()[0]) for each in threads) / 1e9
    said = subprocess.run(  # noqa: S603 - a number of our own
        ("/bin/ps", "-o", "cputime=", "-p", str(pid)), capture_output=True, text=True, check=True
    )
    return to_seconds(said.stdout.strip())


def to_seconds(cputime: str) -> float:
    """`1-02:03:04.56`, `2:03.45` or `3:04` -> seconds."""
    days, _, rest = cputime.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)
