"""`tandem route`: which backend would answer a chat, and why. Nothing is loaded or generated."""

from typing import Annotated, Any

import typer

from proxy.cli.command import AsJson, ConfigFile, Url, print_json, read_settings, to_size
from proxy.cli.names import ModelName


def route(
    model: ModelName,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The message.")] = "Hello",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of the answer.")] = None,
    body: Annotated[
        str | None, typer.Option("--body", metavar="FILE", help="A chat completion as JSON.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Say which backend would answer, and why; a dry run."""
    from proxy.cli.running_server import any_server

    request: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    request = (_read(body) if body is not None else request) | {"model": model}
    with any_server(read_settings(config), url, config) as server:
        plan = server.post("/api/route", request)
    if as_json:
        print_json(plan)
        return
    print(f"{plan['backend']} answers with '{plan['model']}'.")
    for reason in plan["reasons"]:
        print(f"  {reason}")
    print(f"  Context: {plan['context'] or '-'} tokens; memory: {to_size(plan['memory_bytes'])}.")
    for other in plan["alternatives"]:
        print(f"Not {other['backend']} with '{other['model']}': {other['why_not']}")


def _read(path: str) -> dict[str, Any]:
    import json

    from proxy.cli.command import CommandError

    try:
        with open(path, encoding="utf-8") as file:
            body: object = json.load(file)
    except (OSError, ValueError) as exc:
        raise CommandError(f"{path} cannot be read as JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise CommandError(f"{path} is no JSON object.")
    return body  # pyright: ignore[reportUnknownVariableType]
