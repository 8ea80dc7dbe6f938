"""`tandem serve`: run the HTTP server until a signal arrives."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proxy.config import Config, find_config, load_config, state_folder
from proxy.log_file import LOG_FILE, LOG_FORMAT, LogFile

if TYPE_CHECKING:
    from proxy.endpoints.server_request import ServerParts
    from proxy.http.server import Server
    from proxy.reload import LiveConfig
    from proxy.stored.store import Store

OPTIONS = {"--host": "host", "--port": "port", "--config": "config"}


def plain_options(words: Sequence[str]) -> dict[str, str] | None:
    """Read the options of `tandem serve`; `None` where they need the full parser.

    It takes the time of a tenth of the start and 8 MB, for a service that uses three options.
    """
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        value = value if equals else next(rest, "")
        if name not in OPTIONS or not value or value.startswith("-"):
            return None
        options[OPTIONS[name]] = value
    port = options.get("port", "0")
    return options if port.isdecimal() and int(port) <= 65535 else None


def serve(config: str | None = None, host: str | None = None, port: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 if the address is not available.

    Raises:
        ConfigError: the settings are not valid.
    """

    def read() -> Config:
        settings = load_config(find_config(config, os.environ))
        options = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
        return replace(settings, server=replace(settings.server, **options))

    settings = read()
    address = settings.server.host, settings.server.port
    try:
        listener = _listen(*address)
    except OSError as exc:
        from proxy.cli.command import fail

        reason = f"cannot listen on {address[0]}:{address[1]}: {exc.strerror or exc}"
        return fail(1, f"{reason}{_next_step(*address)}")
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after the shutdown
        _run(settings, listener, read)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=1024)
    listener.set_inheritable(True)
    return listener


def _next_step(host: str, port: int) -> str:
    """Advise the user; where Tandem itself has the port, no other start is needed."""
    if port == 0:
        return ""
    from proxy.cli.running_server import RunningServer, to_url

    server = RunningServer(to_url(host, port), None)
    there = "; Tandem runs there already, see `tandem ps`" if server.is_there() else ""
    return there or "; choose another port with --port, or see `tandem doctor`"


def _run(config: Config, listener: socket.socket, read: Callable[[], Config]) -> None:
    # Imported here: `tandem models` and an invalid config need no web server.
    from proxy.app import create_app
    from proxy.cli.running_server import noted
    from proxy.http.server import Server

    state = state_folder(config, os.environ)
    # A server on any free port is another program's, or a test's.
    is_known = config.server.port != 0
    log = LogFile(sys.stderr, state / LOG_FILE if is_known else None)
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, stream=log)
    app = create_app(config, log=log, read_config=read)
    parts: ServerParts = app.state.parts
    with ExitStack() as stack:

        def started() -> None:
            url = _announce(listener, parts.store)
            _reload_on_hangup(server, parts.live)
            if is_known:
                stack.enter_context(noted(state, url))

        server = Server(app, config.server, parts.grace, started)
        stack.callback(log.close)
        server.run(sockets=[listener])


def _announce(listener: socket.socket, store: "Store | None") -> str:
    """Print the address, and return it."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"Tandem listens on {url}/v1", flush=True)
    if store is not None:
        print(store.describe(), flush=True)
    return url


def _reload_on_hangup(server: "Server", live: "LiveConfig") -> None:
    """Reload the configuration on SIGHUP, unless it reports that the terminal was closed."""
    had_terminal = os.isatty(0)

    def hang_up() -> None:
        if had_terminal and not os.isatty(0):
            server.handle_exit(signal.SIGTERM, None)
        else:
            live.on_signal()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
