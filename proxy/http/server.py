"""uvicorn's server with an event instead of polling for its end, signals of its own, fewer pauses.

The first SIGTERM or SIGINT begins the grace of answers, the second ends it, the third ends all.
"""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import cast

import uvicorn
from litestar import Litestar

from adapters.turns import Turns
from proxy.config import ServerConfig
from proxy.http.dispatch import Dispatch
from proxy.http.event_stream import ShutdownGrace
from proxy.http.gates import Fields
from proxy.http.json_response import ErrorDialect
from proxy.http.protocol import Connection
from proxy.http.stalled_clients import reset

_REQUESTS_PER_TURN = 2
"""Requests that begin or end in one turn of the loop: about a millisecond."""
_GC_THRESHOLDS = 2_000, 10, 250
"""Python's own have full collections while a few hundred answers begin, and their time grows with
the answers in progress: 100 ms beside 1,000 streams. What an answer leaves in cycles is young and
found by the other collections, which take at most 15 ms."""
_CUT_SECONDS = 1.0
"""From the end of the grace until connections are cut of which the client does not read the end."""


class Server(uvicorn.Server):
    def __init__(
        self,
        app: Litestar,
        config: ServerConfig,
        grace: ShutdownGrace,
        announce: Callable[[], None],
        date_seconds: float = 1.0,
        on_hangup: Callable[[], None] = lambda: None,
    ) -> None:
        """`announce` is called once the server listens, `on_hangup` in the loop at each SIGHUP.

        A `date` header is at most `date_seconds` old.
        """
        super().__init__(_settings(app, config))
        self._grace = grace
        self._announce = announce
        self._date_seconds = date_seconds
        self._on_hangup = on_hangup
        self._grace_seconds = config.shutdown_grace
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # All objects so far are permanent: a full garbage collection over them would pause every
        # answer for about 20 ms.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        # uvloop registers every asynchronous generator, in Python, to close it when the loop ends,
        # which costs as much as a step of it. Tandem's generators are closed by their readers.
        sys.set_asyncgen_hooks(firstiter=None)
        if self.started:
            self._announce()

    async def main_loop(self) -> None:
        """Wait for the exit. uvicorn polls ten times a second; only `date` needs a tick."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exit.wait(), self._date_seconds)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does, and the application also where requests are not waited for.

        uvicorn leaves it running then, and the end of the loop cancels it with a traceback.
        """
        await super().shutdown(sockets)
        if self.force_exit:
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle signals until the server has ended. uvicorn would raise them again then."""
        self._loop = asyncio.get_running_loop()
        self._exit = asyncio.Event()
        handlers = {
            signal.SIGINT: self.handle_exit,
            signal.SIGTERM: self.handle_exit,
            signal.SIGHUP: self._hang_up,
        }
        if threading.current_thread() is not threading.main_thread():
            handlers = {}
        before = {sig: signal.signal(sig, handler) for sig, handler in handlers.items()}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._signals += 1
        match self._signals:
            case 1:
                self._grace.begin()
                self._exit.set()
                after = self._grace_seconds + _CUT_SECONDS
                self._loop.call_later(after, self._cut_connections)
            case 2:
                self._grace.cut()
                self._loop.call_later(_CUT_SECONDS, self._cut_connections)
            case _:
                self.force_exit = True

    def _cut_connections(self) -> None:
        for connection in [*self.server_state.connections]:
            transport = cast(Connection, connection).transport
            if transport.get_write_buffer_size():
                reset(transport)
            else:
                transport.close()  # The client may yet read what the system has.

    def _hang_up(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._on_hangup)


def _connection_of(app: Litestar) -> type[Connection]:
    dispatch = cast(Dispatch, app.asgi_handler)

    class ConfiguredConnection(Connection):
        turns = Turns(_REQUESTS_PER_TURN)

        def settings(self) -> ServerConfig:
            return dispatch.config

        def errors_of(self, path: str, fields: Fields) -> ErrorDialect:
            return dispatch.errors_of(path, fields)

    return ConfiguredConnection


def _settings(app: Litestar, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_connection_of(app),
        loop="uvloop",  # asyncio's own loop needs twice the time from one token to the next
        ws="none",  # `Connection` hands WebSockets over itself, with these settings
        ws_ping_timeout=None,  # clients without a thread of their own answer no ping between turns
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,  # uvicorn's asks a stdout that may be closed whether it is a terminal
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # All answers end with the grace, or have their connections cut after it.
        timeout_graceful_shutdown=int(config.shutdown_grace + _CUT_SECONDS) + 2,
    )
