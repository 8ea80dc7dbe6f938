"""Registration and failure of commands."""

import argparse
import sys
from collections.abc import Callable

from proxy.config import Config

Run = Callable[[Config, argparse.Namespace], int]
"""Runs a command and returns its exit status."""


class Commands:
    """Registry of the commands of `tandem`, each of which takes `--config`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        command = self._commands.add_parser(name, help=summary, description=f"{summary}.")
        command.add_argument("--config", metavar="FILE", help="settings (config.yaml)")
        command.set_defaults(run=run)
        return command


def fail(status: int, reason: str) -> int:
    """Print `reason` on stderr and return `status`."""
    print(f"tandem: {reason}", file=sys.stderr)
    return status
