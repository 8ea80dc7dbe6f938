"""`tandem serve`: run the HTTP server until a signal arrives."""

import argparse
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from msgspec.structs import replace

from adapters.descriptors import raise_limit
from proxy.cli.command import Commands, fail
from proxy.cli.output import Output, leave_at_signals
from proxy.config import Config

if TYPE_CHECKING:
    from proxy.stored.store import Store

log = logging.getLogger("tandem")


def add(commands: Commands) -> None:
    parser = commands.add("serve", serve, "run the HTTP server")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, help="port to listen on (default: 8006); 0 picks a free one"
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number from 0 to 65535")
    return int(text)


def serve(config: Config, args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 if the address is not available.

    Raises:
        ConfigError: there is no key for a server that other machines reach, or it cannot be read.
    """
    from proxy.access.keys import Access, require_keys

    leave_at_signals()
    raise_limit()
    options = {k: getattr(args, k) for k in ("host", "port") if getattr(args, k) is not None}
    config = replace(config, server=replace(config.server, **options))
    require_keys(config.server)
    Access(config.server.keys, os.environ)  # A wrong key is told before the address is taken.
    host, port = config.server.host, config.server.port
    try:
        listener = _listen(host, port)
    except OSError as exc:
        return fail(1, f"cannot listen on {host}:{port}: {exc.strerror or exc}")
    output = Output()
    code = 0
    try:
        _run(config, listener, output)
    except Exception:
        log.exception("The server has failed.")
        code = 1
    output.end(code)
    return code


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=1024)
    listener.set_inheritable(True)
    return listener


def _run(config: Config, listener: socket.socket, output: Output) -> None:
    # Imported here: `tandem models` and an invalid config need no web server.
    from proxy.app import create_app
    from proxy.endpoints.server_request import ServerParts
    from proxy.http.server import Server

    app = create_app(config, log=sys.stderr)
    parts: ServerParts = app.state.parts

    def announce() -> None:
        output.print(_announcement(listener, parts.store))

    server = Server(app, config.server, parts.grace, announce, on_hangup=_hang_up)
    server.run(sockets=[listener])


def _hang_up() -> None:
    """Handle SIGHUP, in the event loop."""
    log.warning("SIGHUP: the configuration is read at the start. Restart the server to read it.")


def _announcement(listener: socket.socket, store: "Store | None") -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    lines = [f"Tandem listens on http://{shown}:{port}/v1"]
    if store is not None:
        lines.append(store.describe())
    return "\n".join(lines)
