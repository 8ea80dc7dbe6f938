"""`tandem load`, `tandem unload` and `tandem ps`: the models in the memory of a server."""

import math
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from proxy.cli.command import (
    AsJson,
    ConfigFile,
    Url,
    print_json,
    print_table,
    read_settings,
    to_size,
)
from proxy.cli.names import ModelName, to_segment
from proxy.durations import to_seconds

_COLUMNS = ("MODEL", "BACKEND", "WEIGHTS", "CONTEXT", "CACHE", "STATE")
_SPARE = ("CACHE", "CONTEXT", "WEIGHTS", "BACKEND")


def _check_keep_alive(text: str | None) -> str | None:
    if text is not None and _to_seconds(text) is None:
        raise typer.BadParameter(f"'{text}' is neither seconds nor a duration such as 5m or 1h30m.")
    return text


def _to_seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return to_seconds(text)
    return seconds if math.isfinite(seconds) else None


def load(
    model: ModelName,
    keep_alive: Annotated[
        str | None,
        typer.Option(
            help="How long it stays unused: seconds, 5m, -1: for ever.", callback=_check_keep_alive
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Load a model into the memory of the running server, on either engine."""
    from proxy.cli.pull import ProgressDisplay
    from proxy.cli.running_server import require_server

    server = require_server(read_settings(config), url)
    path = f"/api/models/{to_segment(model)}/load"
    body = {} if keep_alive is None else {"keep_alive": _to_seconds(keep_alive)}
    with ProgressDisplay() as display:
        for step in server.lines(path, body | {"stream": True}):
            display(step["status"], step.get("completed"), step.get("total"))
    loaded = server.post(path, body)
    if as_json:
        print_json(loaded)
    else:
        size = loaded["memory_bytes"]
        known = f" ({to_size(size)})" if size is not None else ""
        print(f"{model} is loaded on {loaded['backend']}{known}", file=sys.stderr)


def unload(
    model: ModelName, config: ConfigFile = None, as_json: AsJson = False, url: Url = None
) -> None:
    """Free the memory of a model on the running server."""
    from proxy.cli.running_server import require_server

    server = require_server(read_settings(config), url)
    unloaded = server.post(f"/api/models/{to_segment(model)}/unload", {})
    if as_json:
        print_json(unloaded)
    else:
        print(f"{model} is unloaded", file=sys.stderr)


def ps(config: ConfigFile = None, as_json: AsJson = False, url: Url = None) -> None:
    """List the models in the memory of the running server, and what is left of the budget."""
    from proxy.cli.running_server import require_server

    server = require_server(read_settings(config), url)
    memory = server.get("/health")["memory"]
    loading = {
        (name, model["name"]): model["loading"]
        for name, listed in server.get("/api/models")["backends"].items()
        for model in listed["models"]
        if model["loading"] is not None
    }
    if as_json:
        print_json(memory | {"loading": [{"backend": b, "model": m} for b, m in loading]})
        return
    rows = list(_rows(memory["models"], loading))
    if rows:
        print_table(_COLUMNS, rows, _SPARE)
        print()
    print(f"{to_size(memory['used'])} of {to_size(memory['budget'])} are in use.")
    if not rows:
        print(
            "No model is in memory. `tandem load MODEL` loads a model; a request does, too.",
            file=sys.stderr,
        )


def _rows(
    models: list[dict[str, Any]], loading: dict[tuple[str, str], dict[str, Any]]
) -> Iterator[tuple[str, ...]]:
    for model in models:
        states = [name for name in ("busy", "pinned") if model[name]]
        yield (
            model["model"],
            model["backend"],
            to_size(model["weights"]),
            to_size(model["context"]),
            to_size(model["cache"]),
            ",".join(states) or "idle",
        )
    loaded = {(model["backend"], model["model"]) for model in models}
    for (backend, model), step in loading.items():
        if (backend, model) not in loaded:
            done, total = step.get("completed"), step.get("total")
            percent = f" {100 * (done or 0) // total} %" if total else ""
            yield model, backend, "-", "-", "-", f"loading{percent}"
