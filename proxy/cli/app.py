"""The commands of `tandem` on one screen."""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from proxy.cli import bench, config, service
from proxy.cli.chat import chat
from proxy.cli.command import CommandError, ConfigFile, read_settings
from proxy.cli.connect import connect
from proxy.cli.doctor import doctor
from proxy.cli.export_model import export_model
from proxy.cli.import_model import import_model
from proxy.cli.load import load, ps, unload
from proxy.cli.logs import logs
from proxy.cli.models import models, show
from proxy.cli.pull import pull, rm
from proxy.cli.route import route
from proxy.cli.version import show_version, versions
from proxy.log_file import LOG_FORMAT

if TYPE_CHECKING:
    from proxy.cli.running_server import RunningServer

app = typer.Typer(
    name="tandem",
    help="MLX and Ollama behind one API.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def to_command() -> Any:
    """The parser and its commands, which take a list of words."""
    return get_command(app)


def _print_version(value: bool) -> None:
    if value:
        print(f"tandem {versions()['tandem']}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)
    if context.invoked_subcommand is None:
        _say_what_is_next()


def _say_what_is_next() -> None:
    """Print what is there, and the commands that come next."""
    from proxy.cli.running_server import find_server, to_url

    settings = read_settings(None)
    server = find_server(settings, os.environ.get("TANDEM_URL"))
    if server is None:
        address = to_url(settings.server.host, settings.server.port)
        print("No server runs. Next:\n")
        steps = [
            ("tandem serve", f"start the server at {address}"),
            ("tandem chat", "talk to a model, without a server"),
            ("tandem doctor", "check this machine"),
        ]
    else:
        print(f"A server runs at {server.url}{_count_models(server)} Next:\n")
        steps = [
            ("tandem chat", "talk to a model"),
            ("tandem models", "list the models"),
            ("tandem connect", "settings for your editor or program"),
            ("tandem ps", "the models in memory"),
        ]
    for command, purpose in [*steps, ("tandem pull MODEL", "get a model")]:
        print(f"  {command:20} {purpose}")
    print("\n`tandem --help` lists all commands.")


def _count_models(server: "RunningServer") -> str:
    try:
        count = len({card["root"] for card in server.get("/v1/models")["data"]})
    except CommandError as exc:  # It wants a key, most often.
        return f", and refuses this command. {exc}"
    return ", with 1 model." if count == 1 else f", with {count} models."


@app.command("serve")
def serve_command(
    config: ConfigFile = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port to listen on; 0 picks a free one.", show_default="8006"
        ),
    ] = None,
) -> None:
    """Run the HTTP server."""
    from proxy.cli.serve import serve

    raise typer.Exit(serve(config, host, port))


_COMMANDS: dict[str, Callable[..., None]] = {
    "models": models,
    "show": show,
    "pull": pull,
    "rm": rm,
    "load": load,
    "unload": unload,
    "ps": ps,
    "chat": chat,
    "route": route,
    "connect": connect,
    "import": import_model,
    "export": export_model,
    "logs": logs,
    "doctor": doctor,
    "version": show_version,
}
for name, run in _COMMANDS.items():
    # The help is what precedes the section on errors.
    app.command(name, help=(run.__doc__ or "").partition("\n\n")[0])(run)
app.add_typer(bench.app, name="bench")
app.add_typer(config.app, name="config")
app.add_typer(service.app, name="service")
