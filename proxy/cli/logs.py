"""`tandem logs`: the log of the server, which it keeps in the state folder."""

import json
import os
import shlex
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.command import AsJson, CommandError, ConfigFile, Url, read_settings
from proxy.config import state_folder
from proxy.log_buffer import REQUEST_LOGGER
from proxy.log_file import LOG_FILE

if TYPE_CHECKING:
    from proxy.cli.running_server import RunningServer

_POLL_SECONDS = 0.2
_ASK_SECONDS = 1.0


def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="The last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines, too.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Print the log of the server: a line for each answer, and warnings. Never prompts.

    Without `--url`, it is that of this machine's server, also when it has ended.
    """
    from proxy.cli.running_server import require_server

    settings = read_settings(config)
    if url is not None:
        _print(_ask(require_server(settings, url), lines, follow), as_json)
        return
    path = state_folder(settings, os.environ) / LOG_FILE
    if not os.path.isfile(path):
        raise CommandError(f"There is no log at {path} yet: start a server with `tandem serve`.")
    try:
        _print(_read(path, lines, follow), as_json)
    except PermissionError as exc:
        raise CommandError(f"{path} cannot be read: {exc.strerror}.") from exc


def _print(lines: Iterable[str], as_json: bool) -> None:
    for line in lines:
        print(_to_json(line) if as_json else line, flush=True)


def _ask(server: "RunningServer", lines: int, follow: bool) -> Iterator[str]:
    """Yield the latest lines that a server has in memory; with `follow`, new ones too."""
    found = server.get("/api/logs")["lines"]
    yield from map(_to_line, deque(found, lines))
    while follow:
        last = found[-1]["number"] if found else 0
        time.sleep(_ASK_SECONDS)
        found = server.get(f"/api/logs?after={last}")["lines"] or found[-1:]
        yield from (_to_line(line) for line in found if line["number"] > last)


def _to_line(line: dict[str, Any]) -> str:
    """Return a line of a server as it is in its file."""
    if line["logger"] == REQUEST_LOGGER:
        return line["text"]
    return f"{line['level'].upper()} {line['logger']}: {line['text']}"


def _read(path: Path, lines: int, follow: bool) -> Iterator[str]:
    file = path.open(encoding="utf-8", errors="replace")
    try:
        yield from (line.rstrip("\n") for line in deque(file, lines))
        while follow:
            if line := file.readline():
                yield line.rstrip("\n")
            else:
                time.sleep(_POLL_SECONDS)
                if os.fstat(file.fileno()).st_ino != path.stat().st_ino:  # It was replaced.
                    file.close()
                    file = path.open(encoding="utf-8", errors="replace")
    finally:
        file.close()


def _to_json(line: str) -> str:
    """A line of the request log as an object; any other line as its text."""
    if line.startswith("{"):
        return line
    try:
        parts = [word.partition("=") for word in shlex.split(line)]
    except ValueError:
        parts = []
    if parts and all(equals for _, equals, _ in parts):
        return json.dumps({name: _to_value(text) for name, _, text in parts})
    return json.dumps({"message": line})


def _to_value(text: str) -> object:
    """A number or a boolean as such; all else is text."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        return text
