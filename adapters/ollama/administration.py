"""Describe, delete, copy and create the models of one Ollama.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

from msgspec import Raw

from adapters.backend import Description, Progress, RunningModel, TensorInfo
from adapters.ollama.server import OllamaServer, to_progress
from adapters.ollama.wire import CopyBody, DeleteBody, FullShow, ShowBody, Tag

_SHOW_SECONDS = 10.0
_COMMAND_SECONDS = 60.0
"""Deleting many gigabytes takes a while on a slow disk."""
_FOREVER_YEARS = 100
"""A `keep_alive` without end is a date in another century."""


async def describe(server: OllamaServer, model: str, *, verbose: bool) -> Description:
    """Fetch what Ollama tells of `model`; `verbose`: with its vocabulary and tensors."""
    body = ShowBody(model, verbose)
    shown = await server.client.post("/api/show", body, FullShow, _SHOW_SECONDS)
    return Description(
        facts=shown.model_info,
        template=shown.template,
        system=shown.system,
        parameters=shown.parameters,
        license=shown.license,
        recipe=shown.modelfile,
        tensors=tuple(TensorInfo(t.name, t.type, t.shape or ()) for t in shown.tensors or ()),
    )


def to_running(tag: Tag) -> RunningModel:
    """Translate an entry of `/api/ps`, which reports sizes of 0 where there is no GPU."""
    return RunningModel(
        name=tag.name,
        size_bytes=tag.size or None,
        gpu_bytes=tag.size_vram if tag.size else None,
        context_length=tag.context_length,
        expires_at=_to_seconds(tag.expires_at),
    )


def _to_seconds(moment: str) -> float | None:
    try:
        time = datetime.fromisoformat(moment)
    except ValueError:
        return None
    is_forever = time.year > datetime.now(time.tzinfo).year + _FOREVER_YEARS
    return None if is_forever else time.timestamp()


async def delete(server: OllamaServer, model: str) -> None:
    """Delete `model`; Ollama unloads it first."""
    await server.client.command("DELETE", "/api/delete", DeleteBody(model), _COMMAND_SECONDS)
    server.catalog.forget()


async def copy(server: OllamaServer, source: str, destination: str) -> None:
    body = CopyBody(source, destination)
    await server.client.command("POST", "/api/copy", body, _COMMAND_SECONDS)
    server.catalog.forget()


async def create(server: OllamaServer, recipe: bytes) -> AsyncGenerator[Progress]:
    """Create a model, and yield the steps; the last is `success`."""
    async with aclosing(server.client.created(Raw(recipe))) as lines:
        async for line in (line async for batch in lines for line in batch):
            yield to_progress(line)
    server.catalog.forget()
