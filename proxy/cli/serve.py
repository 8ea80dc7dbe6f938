"""`tandem serve`: answer on HTTP until a signal comes."""

import argparse
import asyncio
import contextlib
import gc
import socket
from types import FrameType

from msgspec.structs import replace

from proxy.cli.command import Commands, fail
from proxy.config import Config

_DATE_SECONDS = 1.0
"""An answer's `date` is as old as this at most."""


def add(commands: Commands) -> None:
    parser = commands.add("serve", serve, "answer on HTTP")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_port, help="port to listen on (8006); 0 = any free")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _with_overrides(config: Config, args: argparse.Namespace) -> Config:
    given = {k: getattr(args, k) for k in ("host", "port") if getattr(args, k) is not None}
    return replace(config, server=replace(config.server, **given))


def serve(config: Config, args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. 1 if the address cannot be listened on."""
    config = _with_overrides(config, args)
    host, port = config.server.host, config.server.port
    try:
        listener = _listen(host, port)
    except OSError as exc:
        return fail(1, f"cannot listen on {host}:{port}: {exc.strerror or exc}")
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended
        _run(config, listener)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=1024)
    listener.set_inheritable(True)
    return listener


def _run(config: Config, listener: socket.socket) -> None:
    # Here, so that `tandem models` and a bad config do not wait for a web server.
    import uvicorn

    from proxy.app import create_app
    from proxy.http.connection import Connection
    from proxy.http.exchange import ServerParts

    app = create_app(config)
    parts: ServerParts = app.state.parts

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self._loop = asyncio.get_running_loop()
            self._asked_to_exit = asyncio.Event()
            # What is here now stays: looking through it for garbage, time and again, would hold up
            # every answer for a fiftieth of a second.
            gc.freeze()
            if self.started:
                _announce(listener)

        async def main_loop(self) -> None:
            """uvicorn's looks ten times a second whether to go on; only the date needs a look."""
            while not await self.on_tick(0):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._asked_to_exit.wait(), _DATE_SECONDS)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """The first signal gives answers their grace; the second ends them."""
            if self.should_exit:
                self.force_exit = True
            super().handle_exit(sig, frame)
            self._loop.call_soon_threadsafe(parts.drain.begin)

    settings = uvicorn.Config(
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
        timeout_graceful_shutdown=int(config.server.shutdown_grace) + 1,
    )
    Server(settings).run(sockets=[listener])


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Tandem listens on http://{shown}:{port}/v1", flush=True)
