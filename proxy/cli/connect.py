"""`tandem connect CLIENT`: settings with which a client uses this server."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli.command import (
    AsJson,
    CommandError,
    ConfigFile,
    Url,
    print_json,
    print_table,
    read_settings,
)
from proxy.cli.names import complete_model
from proxy.config import Config
from proxy.connect.clients import CLIENTS, Client
from proxy.connect.settings import MASK, Part, Server, Settings, User

_PLACEHOLDER = "MODEL"


def _complete(incomplete: str) -> list[str]:
    return [name for name in CLIENTS if name.startswith(incomplete)]


def connect(
    client: Annotated[
        str | None,
        typer.Argument(metavar="CLIENT", help="Without it: a list.", autocompletion=_complete),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model to begin with; by default the first that chats.",
            autocompletion=complete_model,
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Merge them into the client's files, with a backup.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before writing.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Print settings for a client: Codex, Claude Code, editors, SDKs and others."""
    settings = read_settings(config)
    if client is None:
        _list(as_json)
        return
    if client not in CLIENTS:
        raise CommandError(f"There are no settings for '{client}'; use {', '.join(CLIENTS)}.", 2)
    server = _server(settings, url, model)
    found = CLIENTS[client].settings(server, User(Path.home(), os.environ))
    if write:
        written = _write(client, found, server, yes)
        if as_json:
            print_json({"client": client, "files": written})
    elif as_json:
        print_json(_to_json(client, CLIENTS[client], found, server))
    else:
        _print(CLIENTS[client], found, server)


def _list(as_json: bool) -> None:
    if as_json:
        print_json(
            [{"client": name, "title": c.title, "proof": c.proof} for name, c in CLIENTS.items()]
        )
        return
    rows = [(name, c.title, c.proof or "not run") for name, c in CLIENTS.items()]
    print_table(("CLIENT", "FOR", "PROVED BY"), rows, spare=("PROVED BY", "FOR"))
    print("\n`tandem connect CLIENT` prints its settings, and with --write merges them.")


def _server(config: Config, url: str | None, model: str | None) -> Server:
    """The running server and the model; without one, the address of the settings."""
    from proxy.cli.running_server import find_server, to_url

    server = find_server(config, url)
    if server is None:
        address = to_url(config.server.host, config.server.port)
        print(f"tandem: no server responds at {address}: the model is assumed.", file=sys.stderr)
        return Server(url=address, model=model or _PLACEHOLDER)
    card = _card(server.get("/v1/models")["data"], model)
    return Server.with_model(
        card["id"], card["context_length"], card["capabilities"], url=server.url, key=server.key
    )


def _card(cards: list[dict[str, Any]], model: str | None) -> dict[str, Any]:
    for card in cards:
        if card["id"] == model or (model is None and "chat" in card["capabilities"]):
            return card
    if model is None:
        raise CommandError("There is no model that chats: `tandem pull llama3.2:1b` gets one.")
    raise CommandError(f"There is no model '{model}': `tandem models` lists all.")


def _print(client: Client, settings: Settings, server: Server) -> None:
    from proxy.connect.merge import rendered

    for part in settings.parts:
        print(f"# {_short(part.path)}")
        print(_masked("\n".join(rendered(part)), server), end="\n\n")
    if settings.text:
        print(_masked(settings.text, server), end="\n\n")
    if settings.next_step:
        print(f"# {settings.next_step}")
    if settings.parts:
        print("# `--write` merges this into these files, and keeps a backup.")
    if client.proof is None:
        print("# These settings follow the client's documentation; they were not run here.")


def _masked(text: str, server: Server) -> str:
    return text.replace(server.key, MASK) if server.key else text


def _short(path: Path) -> str:
    home = str(Path.home())
    text = str(path)
    return f"~{text.removeprefix(home)}" if text.startswith(home + os.sep) else text


def _to_json(name: str, client: Client, settings: Settings, server: Server) -> dict[str, Any]:
    return {
        "client": name,
        "proof": client.proof,
        "model": server.model,
        "baseUrl": server.base_url,
        "files": [
            {"path": str(part.path), "format": part.form, "content": part.initial | part.content}
            for part in settings.parts
        ],
        "text": settings.text or None,
        "nextStep": settings.next_step or None,
    }


def _write(
    client: str, settings: Settings, server: Server, yes: bool
) -> list[dict[str, str | None]]:
    """Show the difference, ask, and write; returns each path that was written, with its backup.

    Raises:
        CommandError: a file cannot be merged or written, or the user does not want it.
    """
    from proxy.connect.merge import MergeError, difference, merged, write

    if not settings.parts:
        raise CommandError(
            f"'{client}' has no file of settings: `tandem connect {client}` says what to do."
        )
    try:
        texts = [(part, *merged(part)) for part in settings.parts]
    except MergeError as exc:
        raise CommandError(str(exc)) from exc
    changes = [(part, before, after) for part, before, after in texts if before != after]
    if not changes:
        print("Nothing changes: the settings are there already.", file=sys.stderr)
        return []
    for part, before, after in changes:
        print(_masked(difference(part.path, before, after), server), end="", file=sys.stderr)
    _confirm(yes, [part for part, _, _ in changes])
    written: list[dict[str, str | None]] = []
    for part, before, after in changes:
        try:
            backup = write(part.path, before, after)
        except OSError as exc:
            raise CommandError(f"{part.path} cannot be written: {exc.strerror}.") from exc
        written.append({"path": str(part.path), "backup": None if backup is None else str(backup)})
        kept = f", the old one is {_short(backup)}" if backup is not None else ""
        print(f"{_short(part.path)} is written{kept}", file=sys.stderr)
    if settings.next_step:
        print(settings.next_step, file=sys.stderr)
    return written


def _confirm(yes: bool, parts: list[Part]) -> None:
    files = ", ".join(_short(part.path) for part in parts)
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("Nothing was written: confirm with --yes.")
    if not typer.confirm(f"Write {files}?"):
        raise CommandError("Nothing was written.")
