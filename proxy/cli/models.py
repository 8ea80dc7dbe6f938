"""`tandem models`: what the backends have, without a server."""

import argparse
import asyncio
import sys

from proxy.cli.command import Commands
from proxy.config import Config

_PATIENCE = 2.0
"""Seconds it waits for a backend."""


def add(commands: Commands) -> None:
    commands.add("models", models, "list the models of all backends")


def models(config: Config, args: argparse.Namespace) -> int:
    return asyncio.run(_print_models(config))


async def _print_models(config: Config) -> int:
    from proxy.registry import Registry

    registry = Registry(config.models, config.server.refresh)
    async with registry.open(config.backends.enabled()):
        await registry.refresh(_PATIENCE)
        for entry in registry.entries():
            print(f"{entry.id}\t{','.join(place.kind for place in entry.places)}")
        for kind, shelf in registry.shelves.items():
            if not shelf.reached:
                print(f"tandem: {kind} does not answer", file=sys.stderr)
    return 0
