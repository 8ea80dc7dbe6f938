"""Names of models as arguments, with completion by the shell from a running server."""

import os
import re
from collections.abc import MutableMapping
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


_COMPLETED = "_TANDEM_COMPLETED"


def join_at_colons(environ: MutableMapping[str, str]) -> None:
    """Join the words that bash splits at colons, before typer reads them.

    Bash completes what follows the last colon of a word, so that the rest is kept for
    `complete_model`. Source: COMP_WORDBREAKS in `man bash`.
    """
    if environ.get("_TANDEM_COMPLETE") != "complete_bash":
        return
    before = environ["COMP_WORDS"].split("\n")[: int(environ["COMP_CWORD"]) + 1]
    words = re.sub(r"\n?(:+)\n?", r"\1", "\n".join(before)).split("\n")
    start, colon, end = words[-1].rpartition(":")
    environ[_COMPLETED] = start + colon
    environ["COMP_WORDS"] = "\n".join([*words[:-1], end])
    environ["COMP_CWORD"] = str(len(words) - 1)


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names that begin like `incomplete`, of the server of the command; none without one."""
    from proxy.cli.command import CommandError, read_settings
    from proxy.cli.running_server import find_server
    from proxy.config import ConfigError

    with suppress(CommandError, ConfigError):  # A completion has nowhere to report a failure.
        settings = read_settings(ctx.params.get("config"))
        # Not every command has `--url`.
        url = ctx.params.get("url") or os.environ.get("TANDEM_URL")
        server = find_server(settings, url)
        if server is not None:
            names: list[str] = [card["id"] for card in server.get("/v1/models")["data"]]
            start = os.environ.get(_COMPLETED, "")
            fitting = (name for name in names if name.startswith(start + incomplete))
            return [name.removeprefix(start) for name in fitting]
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
