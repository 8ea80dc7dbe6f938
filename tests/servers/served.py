"""The application on a real socket, in the loop of the test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fakes.scripted_backend import DEFAULTS, ScriptedBackend
from fakes.waiting import until

from proxy.app import create_app
from proxy.config import Config
from proxy.http.protocol import Connection


@asynccontextmanager
async def served(
    backend: ScriptedBackend,
    config: Config = DEFAULTS,
    *,
    protocol: type[Connection] = Connection,
    others: Sequence[ScriptedBackend] = (),
    **parts: Any,
) -> AsyncIterator[int]:
    """The port of a real server in this loop, with `backend` and `others`, each named after its
    kind; `parts` are further arguments of `create_app`."""
    app = create_app(config, {each.kind: each for each in (backend, *others)}, **parts)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, http=protocol, ws="none", log_level="error", lifespan="on")
        )
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task
