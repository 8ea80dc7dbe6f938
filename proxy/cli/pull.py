"""`tandem pull`: download a model through its backend."""

import argparse
import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from proxy.cli.command import Commands, fail
from proxy.config import Config

if TYPE_CHECKING:
    from adapters.backend import Progress

_DEFAULT_KIND = "ollama"


def add(commands: Commands) -> None:
    parser = commands.add(
        "pull", pull, "download a model through Ollama, or from the Hugging Face hub for MLX"
    )
    parser.add_argument(
        "model", metavar="MODEL", help="such as llama3.2:3b or mlx-community/Qwen3-4B-4bit"
    )


def pull(config: Config, args: argparse.Namespace) -> int:
    """Download the model and show the progress.

    Returns 0, 1 if the model cannot be downloaded, 130 if the user interrupted.
    """
    from adapters.errors import BackendError

    try:
        return asyncio.run(_pull(config, args.model))
    except BackendError as exc:
        return fail(1, f"{args.model}: {exc.message}")
    except KeyboardInterrupt:
        return fail(130, f"interrupted; `tandem pull {args.model}` continues the download")


async def _pull(config: Config, name: str) -> int:
    from adapters import open_backend

    kind, model = _owner(name, config)
    settings = config.enabled().get(kind)
    if settings is None:
        return fail(1, f"{name}: the {kind} backend is disabled in the config")
    progress_display = _ProgressDisplay()
    async with open_backend(settings) as backend, aclosing(backend.pull(model)) as steps:
        async for progress in steps:
            progress_display(progress)
    print(f"{model} is downloaded", file=sys.stderr)
    return 0


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


class _ProgressDisplay:
    """Prints a line for each step and a bar for each file on stderr."""

    def __init__(self) -> None:
        self._status = ""

    def __call__(self, progress: "Progress") -> None:
        from adapters.gguf.conversion import Bar

        if progress.status != self._status:
            self._status = progress.status
            self._bar = None if progress.total is None else Bar(progress.status)
            if self._bar is None:
                print(progress.status, file=sys.stderr)
        if self._bar is not None and progress.total is not None:
            self._bar(progress.completed or 0, progress.total)
