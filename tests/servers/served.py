"""The application on a real socket, in the loop of the test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import uvicorn
from fakes.scripted_backend import DEFAULTS, ScriptedBackend
from fakes.waiting import until

from proxy.app import create_app
from proxy.config import Config
from proxy.http.dispatch import Dispatch
from proxy.http.gates import Fields
from proxy.http.json_response import ErrorDialect
from proxy.http.protocol import Connection
from proxy.http.turns import Turns


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
        turns = Turns()

        def errors_of(self, path: str, fields: Fields) -> ErrorDialect:
            return dispatch.errors_of(path, fields)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, http=Configured, ws="none", log_level="error", lifespan="on")
        )
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task
