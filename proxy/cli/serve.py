"""`tandem serve`: run the HTTP server until a signal arrives."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from adapters.descriptors import raise_limit
from proxy.cli.output import Output, leave_at_signals
from proxy.config import Config, find_config, load_config, state_folder
from proxy.log_file import LOG_FILE, LOG_FORMAT, LogFile
from proxy.own_address import without_itself

if TYPE_CHECKING:
    from proxy.endpoints.server_request import ServerParts

log = logging.getLogger("tandem")
_FOREIGN = (
    "LITESTAR_PDB",
    "PROMETHEUS_MULTIPROC_DIR",
    "prometheus_multiproc_dir",
    "WEB_CONCURRENCY",
)
"""Variables for other servers, which libraries read: a debugger at each exception, a folder that
metrics are shared in, and a number of processes."""
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
        ConfigError: the settings are not valid, there is no key for a server that other machines
            reach, or it cannot be read.
    """
    leave_at_signals()  # The imports take most of the time of the start.
    from proxy.access.keys import check_server

    def read(*, is_reload: bool = True) -> Config:
        # By the port of the file, too: a command that finds no server starts one on another port.
        path = find_config(config, os.environ)
        settings = without_itself(load_config(path, is_reload=is_reload))
        options = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
        settings = replace(settings, server=replace(settings.server, **options))
        check_server(settings.server, os.environ)
        return without_itself(settings)

    settings = read(is_reload=False)
    raise_limit()
    for name in _FOREIGN:
        os.environ.pop(name, None)
    address = settings.server.host, settings.server.port
    try:
        listener = _listen(*address)
    except OSError as exc:
        from proxy.cli.command import fail

        reason = f"cannot listen on {address[0]}:{address[1]}: {exc.strerror or exc}"
        return fail(1, f"{reason}{_next_step(*address)}")
    state = state_folder(settings, os.environ)
    # A server on any free port is another program's, or a test's.
    note = state if settings.server.port else None
    log_file = LogFile(sys.stderr, None if note is None else note / LOG_FILE)
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, stream=log_file, force=True)
    output = Output()
    code = 0
    try:
        _run(settings, listener, read, output, log_file, note)
    except Exception:
        log.exception("The server has failed.")
        code = 1
    output.end(code)
    log_file.close()
    return code


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


def _run(
    config: Config,
    listener: socket.socket,
    read: Callable[[], Config],
    output: Output,
    log_file: LogFile,
    note: Path | None,
) -> None:
    """Run the server; its address is noted in the folder `note` for commands."""
    # Imported here: `tandem models` and an invalid config need no web server.
    from proxy.app import create_app
    from proxy.cli.running_server import noted
    from proxy.http.server import Server

    app = create_app(config, log=log_file, read_config=read)
    parts: ServerParts = app.state.parts
    with ExitStack() as stack:

        def announce() -> None:
            url = _to_url(listener)
            kept = [parts.store.describe()] if parts.store is not None else []
            output.print("\n".join([f"Tandem listens on {url}/v1", *kept]))
            if note is not None:
                stack.enter_context(noted(note, url))

        server = Server(app, config.server, parts.grace, announce, on_hangup=parts.live.on_signal)
        server.run(sockets=[listener])


def _to_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
