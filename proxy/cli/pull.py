"""`tandem pull`: fetch a model through the backend that will have it."""

import argparse
import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from proxy.cli.command import Commands, fail
from proxy.config import BackendsConfig, Config

if TYPE_CHECKING:
    from adapters.backend import Progress

_USUAL = "ollama"


def add(commands: Commands) -> None:
    parser = commands.add("pull", pull, "fetch a model through Ollama, or from the hub for MLX")
    parser.add_argument("model", metavar="MODEL", help="llama3.2:3b, mlx-community/Qwen3-4B-4bit")


def pull(config: Config, args: argparse.Namespace) -> int:
    """Fetch it, showing how far it is. 1 if it cannot be had, 130 if it was stopped."""
    from adapters.errors import BackendError

    try:
        return asyncio.run(_pull(config, args.model))
    except BackendError as exc:
        return fail(1, f"{args.model}: {exc.message}")
    except KeyboardInterrupt:
        return fail(130, f"stopped; `tandem pull {args.model}` goes on from there")


async def _pull(config: Config, name: str) -> int:
    from adapters import open_backend

    kind, model = _owner(name, config)
    settings = config.backends.enabled().get(kind)
    if settings is None:
        return fail(1, f"{name}: the {kind} backend is switched off")
    shown = _Shown()
    async with open_backend(settings) as backend, aclosing(backend.pull(model)) as steps:
        async for progress in steps:
            shown(progress)
    print(f"{model} is there", file=sys.stderr)
    return 0


def _owner(name: str, config: Config) -> tuple[str, str]:
    """`mlx/NAME` names its backend, as it does in a request; others look like a name of one's."""
    from proxy.models.auto_pull import source_of

    kind, slash, model = name.partition("/")
    if slash and kind in BackendsConfig.__struct_fields__:
        return kind, model
    return source_of(name, config.backends.enabled()) or (_USUAL, name)


class _Shown:
    """A line for each step, and a bar for each file."""

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
