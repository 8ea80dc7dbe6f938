"""`tandem serve | models | bench`."""

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from types import FrameType

from msgspec.structs import replace

from proxy.config import Config, ConfigError, find_config, load_config

_PATIENCE = 2.0
"""Seconds `tandem models` waits for a backend."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        config = load_config(find_config(args.config, os.environ))
    except ConfigError as exc:
        return _fail(2, str(exc))
    if args.run is bench:
        return bench(args)
    return args.run(_with_overrides(config, args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tandem", description="MLX and Ollama behind one API.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve_command = commands.add_parser("serve", help="answer on HTTP")
    serve_command.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve_command.add_argument("--port", type=_port, help="port to listen on (8006); 0 = any free")
    serve_command.set_defaults(run=serve)
    models_command = commands.add_parser("models", help="list the models of all backends")
    models_command.set_defaults(run=models, host=None, port=None)
    _fill_bench(commands.add_parser("bench", help="measure, side by side"))
    for command in (serve_command, models_command):
        command.add_argument("--config", metavar="FILE", help="settings (config.yaml)")
    return parser


def _fill_bench(bench_command: argparse.ArgumentParser) -> None:
    subjects = bench_command.add_subparsers(required=True, metavar="SUBJECT")
    engine = subjects.add_parser("engine", help="bare BatchGenerator, mlx_lm.server and Tandem")
    engine.add_argument("--model", default="SmolLM2-135M-Instruct", help="an MLX model")
    engine.add_argument("--tiny", action="store_true", help="its tokenizer, tiny random weights")
    engine.add_argument("--rounds", type=int, default=3)
    engine.add_argument("--max-tokens", type=int, default=64)
    engine.add_argument("--newcomers", type=int, default=5, help="0 leaves that part out")
    engine.set_defaults(run=bench, host=None, port=None, config=None)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _with_overrides(config: Config, args: argparse.Namespace) -> Config:
    given = {k: getattr(args, k) for k in ("host", "port") if getattr(args, k) is not None}
    return replace(config, server=replace(config.server, **given))


def _fail(status: int, why: str) -> int:
    print(f"tandem: {why}", file=sys.stderr)
    return status


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT. 1 if the address cannot be listened on."""
    host, port = config.server.host, config.server.port
    try:
        listener = _listen(host, port)
    except OSError as exc:
        return _fail(1, f"cannot listen on {host}:{port}: {exc.strerror or exc}")
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
    from proxy.streaming import Drain

    app = create_app(config)
    drain: Drain = app.state.drain

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self._loop = asyncio.get_running_loop()
            if self.started:
                _announce(listener)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """The first signal gives answers their grace; the second ends them."""
            if self.should_exit:
                self.force_exit = True
            super().handle_exit(sig, frame)
            self._loop.call_soon_threadsafe(drain.begin)

    settings = uvicorn.Config(
        app,
        http="h11",
        ws="none",  # uvicorn hangs on `Upgrade: websocket` where a library for it is installed
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        # A backstop for clients that do not read; all others end by the grace.
        timeout_graceful_shutdown=int(config.server.shutdown_grace) + 1,
    )
    Server(settings).run(sockets=[listener])


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Tandem listens on http://{shown}:{port}/v1", flush=True)


def bench(args: argparse.Namespace) -> int:
    """Measure the engine and print tables. 1 if a contestant failed."""
    from proxy.bench.engine import Plan, bench_engine

    plan = Plan(args.model, args.tiny, args.rounds, args.max_tokens, args.newcomers)
    try:
        asyncio.run(bench_engine(plan))
    except RuntimeError as exc:
        return _fail(1, str(exc))
    return 0


def models(config: Config) -> int:
    """Print what the backends have, without a server."""
    return asyncio.run(_print_models(config))


async def _print_models(config: Config) -> int:
    from proxy.registry import Registry

    registry = Registry(config.models, config.server.refresh)
    async with registry.open(config.backends.enabled()):
        await registry.refresh(_PATIENCE)
        for entry in registry.entries():
            print(f"{entry.id}\t{','.join(place.kind for place in entry.places)}")
        for kind, shelf in registry.shelves.items():
            if not shelf.reached:
                print(f"tandem: {kind} does not answer", file=sys.stderr)
    return 0
