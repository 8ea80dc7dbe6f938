"""Names of models as arguments, with completion by the shell from a running server."""

from contextlib import suppress
from typing import Annotated

import typer


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
        metavar="MODEL", help="A model listed by `tandem models`.", autocompletion=complete_model
    ),
]
