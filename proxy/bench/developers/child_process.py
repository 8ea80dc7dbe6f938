"""Contestants as processes of their own: started, waited for, ended."""

import asyncio
import socket
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
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
