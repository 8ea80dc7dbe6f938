"""Names of models as arguments, with completion by the shell from a running server."""

from contextlib import suppress
from typing import Annotated
from urllib.parse import quote

import typer


def to_segment(model: str) -> str:
    """Return a name as one segment of a path: `/` and a lone `..` are parts of the name."""
    return quote(model, safe="").replace(".", "%2E")


def require_name(model: str | None) -> str | None:
    """Return the name of a model as it was given.

    Raises:
        BadParameter: it is empty, as a variable of a script that is not set, or no text.
    """
    if model is not None and not (model.strip() and model.isprintable()):
        raise typer.BadParameter("It has to be a name; `tandem models` lists all.")
    return model


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names that begin like `incomplete`, of the server of the command; none without one."""
    from proxy.cli.command import CommandError, read_settings
    from proxy.cli.running_server import find_server
    from proxy.config import ConfigError

    with suppress(CommandError, ConfigError):  # A completion has nowhere to report a failure.
        settings = read_settings(ctx.params.get("config"))
        server = find_server(settings, ctx.params.get("url"))
        if server is not None:
            names: list[str] = [card["id"] for card in server.get("/v1/models")["data"]]
            return [name for name in names if name.startswith(incomplete)]
    return []


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model listed by `tandem models`.",
        autocompletion=complete_model,
        callback=require_name,
    ),
]
