"""The application on a real socket, in the loop of the test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fakes.scripted_backend import DEFAULTS, ScriptedBackend

from proxy.app import create_app
from proxy.config import Config
from proxy.http.protocol import Connection


async def until(happened: Callable[[], bool]) -> None:
    """For what happens on the other side of a socket, of which no event tells."""
    async with asyncio.timeout(2):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def served(backend: ScriptedBackend, config: Config = DEFAULTS) -> AsyncIterator[int]:
    """The port of a real server in this loop."""
    app = create_app(config, {backend.kind: backend})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, http=Connection, ws="none", log_level="error", lifespan="on")
        )
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task
