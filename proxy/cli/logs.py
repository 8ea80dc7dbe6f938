"""`tandem logs`: the log of the server, which it keeps in the state folder."""

import json
import os
import shlex
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.command import AsJson, CommandError, ConfigFile, read_settings
from proxy.config import state_folder
from proxy.log_file import LOG_FILE

_POLL_SECONDS = 0.2


def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="The last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines, too.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Print the log of the server: a line for each answer, and warnings. Never prompts."""
    path = state_folder(read_settings(config), os.environ) / LOG_FILE
    if not os.path.isfile(path):
        raise CommandError(f"There is no log at {path} yet: start a server with `tandem serve`.")
    try:
        for line in _read(path, lines, follow):
            print(_to_json(line) if as_json else line, flush=follow)
    except PermissionError as exc:
        raise CommandError(f"{path} cannot be read: {exc.strerror}.") from exc


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
