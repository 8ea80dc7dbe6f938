"""`tandem models`: list the models of all backends, without a server."""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from proxy.cli.command import Commands
from proxy.config import Config

if TYPE_CHECKING:
    from proxy.models.registry import Deployment, RegisteredModel, Registry

_LISTING_SECONDS = 2.0
"""Time that a backend has to list its models."""
_COLUMNS = (
    "MODEL",
    "BACKEND",
    "NAME THERE",
    "QUANTIZATION",
    "SIZE",
    "CONTEXT",
    "CAPABILITIES",
    "LOADED",
)
_UNKNOWN = "-"


def add(commands: Commands) -> None:
    parser = commands.add("models", models, "list the models of all backends")
    parser.add_argument("--json", action="store_true", help="as GET /v1/models does")


def models(config: Config, args: argparse.Namespace) -> int:
    return asyncio.run(_print_models(config, args.json))


async def _print_models(config: Config, as_json: bool) -> int:
    from proxy.models.registry import Registry

    registry = Registry(config.models, config.server.refresh)
    async with registry.open(config.backend_configs()):
        await registry.refresh(_LISTING_SECONDS)
        print(_as_json(registry) if as_json else "\n".join(_table(registry.entries())))
        for name, listed in registry.backends.items():
            if not listed.reached:
                detail = (await listed.backend.health()).detail
                print(f"tandem: {name} does not respond. {detail or ''}".rstrip(), file=sys.stderr)
            for model, reason in sorted(listed.unusable().items()):
                print(f"tandem: {name}: '{model}' cannot be used: {reason}.", file=sys.stderr)
    return 0


def _as_json(registry: "Registry") -> str:
    import msgspec

    from proxy.endpoints.openai.models import to_list

    return msgspec.json.format(msgspec.json.encode(to_list(registry.entries()))).decode()


def _table(entries: "Iterable[RegisteredModel]") -> Iterator[str]:
    """A line for each deployment, in columns."""
    rows = [_COLUMNS, *(row for entry in entries for row in _rows(entry))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _rows(entry: "RegisteredModel") -> Iterator[tuple[str, ...]]:
    for index, deployment in enumerate(entry.deployments):
        yield ("" if index else entry.id, deployment.backend, deployment.name, *_facts(deployment))


def _facts(deployment: "Deployment") -> tuple[str, ...]:
    model = deployment.model
    if model is None:
        return (_UNKNOWN,) * 5
    size = f"{model.size_bytes / 1e9:.2f} GB" if model.size_bytes is not None else _UNKNOWN
    return (
        model.quantization or _UNKNOWN,
        size,
        str(model.context_length or _UNKNOWN),
        ",".join(sorted(model.capabilities)) or _UNKNOWN,
        {True: "yes", False: "no", None: _UNKNOWN}[model.loaded],
    )
