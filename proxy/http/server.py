"""uvicorn's server with an event instead of polling for its end, and fewer pauses."""

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from litestar import Litestar

from proxy.config import ServerConfig
from proxy.http.event_stream import ShutdownGrace
from proxy.http.protocol import Connection


class Server(uvicorn.Server):
    def __init__(
        self,
        app: Litestar,
        config: ServerConfig,
        grace: ShutdownGrace,
        announce: Callable[[], None],
        date_seconds: float = 1.0,
    ) -> None:
        """`announce` is called once the server listens; the first signal to exit begins `grace`.

        A `date` header is at most `date_seconds` old.
        """
        super().__init__(_settings(app, config))
        self._grace = grace
        self._announce = announce
        self._date_seconds = date_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._exit = asyncio.Event()
        # All objects so far are permanent: a full garbage collection over them would pause every
        # answer for about 20 ms.
        gc.freeze()
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the grace of answers at the first signal; end them at the second."""
        if self.should_exit:
            self.force_exit = True
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._grace.begin)
        self._loop.call_soon_threadsafe(self._exit.set)


def _connection_of(config: ServerConfig) -> type[Connection]:
    class ConfiguredConnection(Connection):
        allowed_origins = config.allowed_origins

    return ConfiguredConnection


def _settings(app: Litestar, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_connection_of(config),
        loop="uvloop",  # asyncio's own loop needs twice the time from one token to the next
        ws="none",  # `Connection` hands WebSockets over itself, with the settings that follow
        ws_max_size=config.max_body_bytes,
        ws_ping_interval=config.keepalive,
        ws_ping_timeout=None,  # clients without a thread of their own answer no ping between turns
        ws_per_message_deflate=False,
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # For clients that do not read; all other answers end with the grace.
        timeout_graceful_shutdown=int(config.shutdown_grace) + 1,
    )
