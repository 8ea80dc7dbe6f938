"""A download from the hub as it is seen from the event loop: a child that tells how far it is."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Callable
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.backend import Progress
from adapters.errors import BackendError, BackendUnavailableError, ModelNotFoundError

_TIDYING = 2.0
"""Seconds."""
_ERRORS: dict[str, Callable[[str], BackendError]] = {
    "not_found": lambda why: ModelNotFoundError(why, param="model"),
    "unavailable": BackendUnavailableError,
}


class Said(Struct, omit_defaults=True):
    """A line of the child's."""

    status: str = ""
    completed: int | None = None
    """Bytes."""
    total: int | None = None
    error: Literal["not_found", "unavailable"] | None = None
    """Why it ends; `status` says it in words."""


async def pull(repository: str) -> AsyncGenerator[Progress]:
    """As `Backend.pull`. Closing it ends the child."""
    # -P: a folder named `adapters` where the server was started is not the one meant.
    command = (sys.executable, "-P", "-m", "adapters.mlx.models.hub", repository)
    child = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE)
    assert child.stdout is not None  # noqa: S101 - for the type checker: it is a pipe.
    try:
        async for line in child.stdout:
            said = msgspec.json.decode(line, type=Said)
            if said.error is not None:
                raise _ERRORS[said.error](said.status)
            yield Progress(status=said.status, completed=said.completed, total=said.total)
        if await child.wait() != 0:
            raise BackendUnavailableError(f"The download of '{repository}' broke off.")
        yield Progress(status="success")
    finally:
        if child.returncode is None:
            await _end(child)


async def _end(child: asyncio.subprocess.Process) -> None:
    """It has a moment to tidy up."""
    child.terminate()
    try:
        async with asyncio.timeout(_TIDYING):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
