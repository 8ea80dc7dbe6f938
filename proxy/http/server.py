"""uvicorn, told when to end instead of asking, and out of the way of those who are answered."""

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
        """`announce` is called once it listens; `grace` begins with the first signal to end.

        A `date` header is at most `date_seconds` old.
        """
        super().__init__(_settings(app, config))
        self._grace = grace
        self._announce = announce
        self._date_seconds = date_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._asked_to_exit = asyncio.Event()
        # What is here now stays: looking through it for garbage, time and again, would hold up
        # every answer for a fiftieth of a second.
        gc.freeze()
        # uvloop notes every asynchronous generator, in Python, to close it when the loop ends: as
        # much work as a step of it. Ours are closed by who reads them.
        sys.set_asyncgen_hooks(firstiter=None)
        if self.started:
            self._announce()

    async def main_loop(self) -> None:
        """uvicorn's looks ten times a second whether to go on; only the date needs a look."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked_to_exit.wait(), self._date_seconds)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal gives answers their grace; the second ends them."""
        if self.should_exit:
            self.force_exit = True
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._grace.begin)
        self._loop.call_soon_threadsafe(self._asked_to_exit.set)


def _settings(app: Litestar, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        loop="uvloop",  # asyncio's own takes twice as long to get from one token to the next
        ws="none",  # uvicorn hangs on `Upgrade: websocket` where a library for it is installed
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # A backstop for clients that do not read; all others end by the grace.
        timeout_graceful_shutdown=int(config.shutdown_grace) + 1,
    )
