"""Options, failures and output that commands share."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import typer

from proxy.config import Config, find_config, load_config
from proxy.own_address import without_itself

ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings; by default $TANDEM_CONFIG, else the user's config.yaml.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="TANDEM_URL",
        help="Address of the server; by default that of the settings.",
        show_default=False,
    ),
]


class CommandError(Exception):
    """A command failed; the text says why, and what to do next."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def fail(status: int, reason: str) -> int:
    """Print `reason` on stderr and return `status`."""
    for line in reason.splitlines():
        print(f"tandem: {line}", file=sys.stderr)
    return status


def read_settings(config: str | None) -> Config:
    """Read the settings of `--config`, else those of the environment.

    Raises:
        ConfigError: they are not valid.
    """
    return without_itself(load_config(find_config(config, os.environ)))


def takes_all() -> bool:
    """Return whether the terminal, or the file, has all characters."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=not takes_all()))


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; `None` for a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], spare: Sequence[str] = ()
) -> None:
    """Print aligned columns: plain text, whole in pipes and files.

    Columns of `spare` are left out, the first of them first, until a line fits into the terminal.
    """
    table, width, left_out = [head, *rows], terminal_width(), list[str]()
    for name in spare:
        if width is None or max(map(len, _lines(table))) <= width:
            break
        place = table[0].index(name)
        table = [[*row[:place], *row[place + 1 :]] for row in table]
        left_out.append(name)
    for line in _lines(table):
        print(line)
    if left_out:
        names = ", ".join(left_out)
        print(f"tandem: no room for {names}; a wider terminal or --json has them", file=sys.stderr)


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def to_size(nbytes: int | None) -> str:
    """`1500000000` -> `1.50 GB`; `-` where it is not known."""
    return "-" if nbytes is None else f"{nbytes / 1e9:.2f} GB"
