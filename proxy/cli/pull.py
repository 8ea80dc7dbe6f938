"""`tandem pull` and `tandem rm`: download a model through its backend, and delete one."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from typing import Annotated, Any

import typer

from proxy.cli.command import (
    AsJson,
    CommandError,
    ConfigFile,
    Url,
    print_json,
    read_settings,
    to_size,
)
from proxy.cli.names import ModelName, to_segment
from proxy.cli.progress import Advance, progress_bar
from proxy.config import Config

_DEFAULT_KIND = "ollama"
_HELP = "Such as llama3.2:3b or mlx-community/Qwen3-4B-4bit."
_SUCCESS = "success"


def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_HELP)],
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Download a model through Ollama, or from the Hugging Face hub for MLX.

    Raises:
        CommandError: 1: the model cannot be downloaded; 130: the user interrupted.
    """
    from adapters.errors import BackendError
    from proxy.cli.running_server import find_server

    settings = read_settings(config)
    server = find_server(settings, url)
    try:
        if server is None:
            name = asyncio.run(_pull_here(settings, model))
        else:
            name = model
            _show(server.lines("/api/pull", {"model": model}))
    except BackendError as exc:
        raise CommandError(f"{model}: {exc.message}") from exc
    except KeyboardInterrupt as exc:
        message = f"interrupted; `tandem pull {model}` continues the download"
        raise CommandError(message, 130) from exc
    if as_json:
        print_json({"model": name, "status": _SUCCESS})
    print(f"{name} is downloaded", file=sys.stderr)


async def _pull_here(config: Config, name: str) -> str:
    from adapters import open_backend
    from adapters.errors import BackendUnavailableError

    kind, model = _owner(name, config)
    settings = config.enabled().get(kind)
    if settings is None:
        raise CommandError(f"{name}: the {kind} backend is disabled in the config")
    async with open_backend(settings) as backend:
        try:
            with ProgressDisplay() as display:
                async with aclosing(backend.pull(model)) as steps:
                    async for step in steps:
                        display(step.status, step.completed, step.total)
        except BackendUnavailableError as exc:
            health = await backend.health()
            if health.ok:  # The hub does not respond, which doctor does not check.
                raise
            message = f"{name}: {exc.message} `tandem doctor` says what to do."
            raise CommandError(message) from exc
    return model


def _owner(name: str, config: Config) -> tuple[str, str]:
    """Split `name` into the kind of its backend and the name there.

    `mlx/NAME` names its backend, as in a request; otherwise the form of the name decides.
    """
    from proxy.models.auto_pull import to_source

    kind, slash, model = name.partition("/")
    if slash and kind in config.backends:
        return kind, model
    namings = {
        backend: backend_config.naming for backend, backend_config in config.enabled().items()
    }
    return to_source(name, namings) or (_DEFAULT_KIND, name)


def _show(steps: Iterator[dict[str, Any]]) -> None:
    with ProgressDisplay() as display:
        for step in steps:
            display(step["status"], step.get("completed"), step.get("total"))


class ProgressDisplay(ExitStack):
    """Shows a line for each step and a bar for each file on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._status = ""
        self._bar: Advance | None = None

    def __call__(self, status: str, completed: int | None, total: int | None) -> None:
        if status != self._status:
            self._status = status
            self.close()
            self._bar = self.enter_context(progress_bar(status)) if total is not None else None
            if self._bar is None and status != _SUCCESS:
                print(status, file=sys.stderr)
        if self._bar is not None and total is not None:
            self._bar(completed or 0, total)


def rm(
    model: ModelName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Delete the files of a model, on every backend that has it by this name."""

    from proxy.cli.running_server import any_server

    with any_server(read_settings(config), url, config) as server:
        card = server.get(f"/v1/models/{to_segment(model)}")
        if not yes:
            _confirm(f"Delete the files of '{model}' ({to_size(card['size_bytes'])})?")
        server.delete("/api/delete", {"model": model})
    if as_json:
        print_json({"model": model, "status": "deleted"})
    else:
        print(f"{model} is deleted", file=sys.stderr)


def _confirm(question: str) -> None:
    """Ask on a terminal.

    Raises:
        CommandError: the answer is no, or there is no terminal.
    """
    if not sys.stdin.isatty():
        raise CommandError("Nothing was deleted: confirm with --yes.")
    if not typer.confirm(question):
        raise CommandError("Nothing was deleted.")
