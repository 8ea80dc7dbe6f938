"""`tandem models` and `tandem show`: the models of all backends, and one of them in detail."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from proxy.cli.command import (
    AsJson,
    ConfigFile,
    Url,
    print_json,
    print_table,
    read_settings,
    terminal_width,
    to_size,
)
from proxy.cli.names import ModelName, to_segment
from proxy.config import Config

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
_SPARE = ("CAPABILITIES", "QUANTIZATION", "NAME THERE", "CONTEXT", "LOADED", "SIZE", "BACKEND")
"""Columns that are left out on a narrow terminal, in this order."""
_UNKNOWN = "-"
_SHOWN_FACTS = 30
_LONGEST = 100
"""Characters of a value that `tandem show` prints in a line."""

_SHORTEST = 8
"""Characters of it on a narrow terminal."""

Listing = tuple[list[dict[str, Any]], list[str]]
"""Cards as GET /v1/models has them, and sentences on what is missing."""


def models(config: ConfigFile = None, as_json: AsJson = False, url: Url = None) -> None:
    """List the models of all backends; from a running server, or without one."""
    from proxy.cli.running_server import find_server

    settings = read_settings(config)
    server = find_server(settings, url)
    if server is None:
        cards, remarks = asyncio.run(_list_here(settings))
    else:
        cards = server.get("/v1/models")["data"]
        remarks = [*_remarks(server.get("/api/models"), server.get("/health"))]
    if as_json:
        print_json({"object": "list", "data": cards})
    else:
        # A card for each name: those of one model have the same root.
        firsts = [card for card in cards if card["id"] == card["root"]]
        print_table(_COLUMNS, [row for card in firsts for row in _rows(card)], _SPARE)
    for remark in remarks:
        print(f"tandem: {remark}", file=sys.stderr)
    if not cards and not remarks:
        print("tandem: there are no models; `tandem pull llama3.2:1b` gets one.", file=sys.stderr)


async def _list_here(config: Config) -> Listing:
    import msgspec

    from proxy.endpoints.openai.models import to_list
    from proxy.models.registry import Registry

    registry = Registry(config.models, config.server.refresh)
    async with registry.open(config.backend_configs()):
        await registry.refresh(_LISTING_SECONDS)
        remarks: list[str] = []
        for name, listed in registry.backends.items():
            detail = None if listed.reached else (await listed.backend.health()).detail
            remarks += _remarks_on(name, bool(listed.reached), detail, listed.unusable())
        return msgspec.to_builtins(to_list(registry.entries()))["data"], remarks


def _remarks(listings: dict[str, Any], health: dict[str, Any]) -> Iterator[str]:
    for name, listed in listings["backends"].items():
        detail = health["backends"].get(name, {}).get("detail")
        yield from _remarks_on(name, listed["reached"] is not False, detail, listed["unusable"])


def _remarks_on(
    name: str, is_reached: bool, detail: str | None, unusable: dict[str, str]
) -> Iterator[str]:
    if not is_reached:
        yield f"{name} does not respond. {detail or ''}".rstrip()
    for model, reason in sorted(unusable.items()):
        yield f"{name}: '{model}' cannot be used: {reason}."


def _rows(card: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for index, there in enumerate(card["backends"]):
        yield (
            "" if index else card["id"],
            there["backend"],
            there["name"],
            there["quantization"] or _UNKNOWN,
            to_size(there["size_bytes"]),
            str(there["context_length"] or _UNKNOWN),
            ",".join(there["capabilities"]) or _UNKNOWN,
            {True: "yes", False: "no", None: _UNKNOWN}[there["loaded"]],
        )


def show(
    model: ModelName,
    verbose: Annotated[bool, typer.Option("--verbose", help="With all facts and tensors.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show one model: its backends, context, capabilities, template and facts."""

    from proxy.cli.running_server import any_server

    with any_server(read_settings(config), url, config) as server:
        card = server.get(f"/v1/models/{to_segment(model)}")
        details = server.post("/api/show", {"model": model, "verbose": verbose})
    if as_json:
        print_json({"card": card, "details": details})
        return
    print_table(_COLUMNS, list(_rows(card)), _SPARE)
    for title, value in _parts(card, details):
        print(f"\n{title}\n  " + value.strip().replace("\n", "\n  "))
    print("\nFacts")
    facts = list(details["model_info"].items())
    if verbose:
        print_table(("", ""), [(key, _short(value, _LONGEST)) for key, value in facts])
    else:
        print_table(("", ""), _fitting(facts[:_SHOWN_FACTS]))
        if len(facts) > _SHOWN_FACTS:
            print(f"… and {len(facts) - _SHOWN_FACTS} more with --verbose")


def _parts(card: dict[str, Any], details: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if len(card["names"]) > 1:
        yield "Names", ", ".join(card["names"])
    for there in card["backends"]:
        if there["notes"]:
            yield f"Notes on {there['backend']}", "\n".join(there["notes"])
    for key in ("parameters", "system", "template"):
        if details.get(key):
            yield key.capitalize(), str(details[key])


def _fitting(facts: Sequence[tuple[str, object]]) -> list[tuple[str, str]]:
    """Shorten values so that a line fits into the terminal."""
    width, longest = terminal_width(), _LONGEST
    if width is not None:
        keys = max((len(key) for key, _ in facts), default=0)
        longest = min(longest, max(_SHORTEST, width - keys - len("  …")))
    return [(key, _short(value, longest)) for key, value in facts]


def _short(value: object, longest: int) -> str:
    text = str(value)
    return text if len(text) <= longest else f"{text[:longest]}…"
