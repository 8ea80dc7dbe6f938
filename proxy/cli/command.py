"""What all commands share: how one is added, and how one fails."""

import argparse
import sys
from collections.abc import Callable

from proxy.config import Config

Run = Callable[[Config, argparse.Namespace], int]
"""Returns the exit status."""


class Commands:
    """The commands of `tandem`; each takes `--config`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        command = self._commands.add_parser(name, help=summary, description=f"{summary}.")
        command.add_argument("--config", metavar="FILE", help="settings (config.yaml)")
        command.set_defaults(run=run)
        return command


def fail(status: int, why: str) -> int:
    print(f"tandem: {why}", file=sys.stderr)
    return status
