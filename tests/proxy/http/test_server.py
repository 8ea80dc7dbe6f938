"""Differences from uvicorn's own behaviour."""

import asyncio
import gc
import signal
import socket

from fakes.scripted_backend import ScriptedBackend
from fakes.waiting import until

from proxy.app import create_app
from proxy.config import Config, ServerConfig
from proxy.http.event_stream import ShutdownGrace
from proxy.http.server import Server


async def test_told_to_end_it_does_not_wait_for_its_next_look():
    backend = ScriptedBackend()
    announced: list[str] = []
    drain = ShutdownGrace(grace=1)
    app = create_app(Config(), {backend.kind: backend})
    server = Server(app, ServerConfig(), drain, lambda: announced.append("here"), 60)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        await until(lambda: bool(announced))
        server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(20):
            await serving
    gc.unfreeze()  # It stays for as long as a server, not for the tests that follow.
    assert drain.began


async def test_third_signal_ends_the_application_in_order():
    ended = asyncio.Event()
    app = create_app(Config(), {"scripted": ScriptedBackend()})
    app.on_shutdown.append(ended.set)
    started = asyncio.Event()
    server = Server(app, ServerConfig(), ShutdownGrace(grace=1), started.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        await started.wait()
        for _ in range(3):
            server.handle_exit(signal.SIGINT, None)
        await serving
    gc.unfreeze()
    assert ended.is_set()
