"""Download a model from the hub in a child process that reports its progress."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Callable
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.backend import Progress
from adapters.errors import BackendError, BackendUnavailableError, ModelNotFoundError

_CLEANUP_SECONDS = 2.0
_ERRORS: dict[str, Callable[[str], BackendError]] = {
    "not_found": lambda why: ModelNotFoundError(why, param="model"),
    "unavailable": BackendUnavailableError,
}


class Report(Struct, omit_defaults=True):
    """One line of the child's output."""

    status: str = ""
    completed: int | None = None
    """Bytes."""
    total: int | None = None
    error: Literal["not_found", "unavailable"] | None = None
    """Why the download failed; `status` is the message."""


async def pull(repository: str) -> AsyncGenerator[Progress]:
    """See `Backend.pull`. Closing the generator ends the child."""
    # -P: not a folder named `adapters` in the server's working directory.
    command = (sys.executable, "-P", "-m", "adapters.mlx.models.hub", repository)
    child = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE)
    assert child.stdout is not None  # noqa: S101 - for the type checker: it is a pipe.
    try:
        async for line in child.stdout:
            report = msgspec.json.decode(line, type=Report)
            if report.error is not None:
                raise _ERRORS[report.error](report.status)
            yield Progress(status=report.status, completed=report.completed, total=report.total)
        if await child.wait() != 0:
            raise BackendUnavailableError(f"The download of '{repository}' ended unexpectedly.")
        yield Progress(status="success")
    finally:
        if child.returncode is None:
            await _end(child)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Stop the child, with a moment to remove incomplete files."""
    child.terminate()
    try:
        async with asyncio.timeout(_CLEANUP_SECONDS):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
