"""Child processes of a benchmark: start, wait for the port, read the CPU time, kill."""

import asyncio
import socket
import subprocess
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

_START_TIMEOUT = 120.0


@asynccontextmanager
async def running(
    *command: str, log: BinaryIO, stdin: int | None = None
) -> AsyncGenerator[Process]:
    """Run `command` inside the block, with stdout as a pipe and stderr in `log`."""
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def listening(port: int) -> None:
    """Wait until a server accepts connections on `port`.

    Raises:
        RuntimeError: no server did within `_START_TIMEOUT` seconds.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.close()
        return
    raise RuntimeError(f"no server listens on port {port} after {_START_TIMEOUT:.0f} s")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of all threads of process `pid`, in seconds.

    The resolution is a nanosecond on Linux: the first field of each thread's `schedstat`, as `stat`
    has hundredths of a second and a measurement takes only a few of them. Elsewhere it is a
    hundredth (`ps`).
    """
    threads = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
    if threads:
        return sum(map(_nanoseconds, threads)) / 1e9
    ps = subprocess.run(  # noqa: S603 - the pid of a child process
        ("/bin/ps", "-o", "cputime=", "-p", str(pid)), capture_output=True, text=True, check=True
    )
    return to_seconds(ps.stdout.strip())


def _nanoseconds(schedstat: Path) -> int:
    """Read the time of a thread; 0 if it has ended since its process was listed."""
    try:
        return int(schedstat.read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def to_seconds(cputime: str) -> float:
    """Parse the CPU time that `ps` prints: `1-02:03:04.56`, `2:03.45` or `3:04`."""
    days, _, rest = cputime.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)
