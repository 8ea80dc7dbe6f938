"""The application on a real socket, in the loop of the test."""

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import uvicorn
from fakes.scripted_backend import DEFAULTS, ScriptedBackend
from fakes.waiting import until

from adapters.turns import Turns
from proxy.app import create_app
from proxy.config import Config, ServerConfig
from proxy.endpoints.server_request import ServerParts
from proxy.http.dispatch import Dispatch
from proxy.http.gates import Fields
from proxy.http.json_response import ErrorDialect
from proxy.http.protocol import Connection
from proxy.http.server import Server


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
    dispatch = cast(Dispatch, app.asgi_handler)

    class Configured(protocol):
        turns = Turns(2)

        def settings(self) -> ServerConfig:
            own = super().settings()
            return dispatch.config if own == ServerConfig() else own

        def errors_of(self, path: str, fields: Fields) -> ErrorDialect:
            return dispatch.errors_of(path, fields)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, http=Configured, ws="none", log_level="error", lifespan="on")
        )
        await _start(server, listener)
        try:
            yield listener.getsockname()[1]
        finally:
            await _end(server)


@asynccontextmanager
async def own_server(
    backend: ScriptedBackend, config: Config = DEFAULTS
) -> AsyncIterator[tuple[Server, int]]:
    """Tandem's own server with its settings, and its port; `handle_exit` begins its end."""
    app = create_app(config, {backend.kind: backend})
    parts: ServerParts = app.state.parts
    started = asyncio.Event()
    server = Server(app, config.server, parts.grace, started.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        await started.wait()
        try:
            yield server, listener.getsockname()[1]
        finally:
            if not server.should_exit:
                server.handle_exit(signal.SIGTERM, None)
            await serving
            gc.unfreeze()  # It stays for as long as a server, not for the tests that follow.


async def _start(server: uvicorn.Server, listener: socket.socket) -> None:
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([listener])


async def _end(server: uvicorn.Server) -> None:
    """End as `uvicorn.Server.shutdown`, without its pauses of 0.1 s, which 300 tests would pay."""
    for each in server.servers:
        each.close()
    for connection in [*server.server_state.connections]:
        connection.shutdown()
    await until(lambda: not server.server_state.connections and not server.server_state.tasks)
    await server.lifespan.shutdown()
