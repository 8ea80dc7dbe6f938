"""Load and unload models: `/api/models/{id}/load` on any backend, `/api/mlx/load` on MLX."""

from typing import Annotated, Literal, TypeVar

import msgspec
from litestar import post
from litestar.exceptions import MethodNotAllowedException
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta, Struct

from adapters.backend import Progress
from proxy.endpoints import model_loading
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.prompt import require_mlx
from proxy.errors import Failure
from proxy.http.event_stream import NDJSON, EventSink, Put, json_line
from proxy.http.json_response import JSONResponse
from proxy.keep_alive import KeepAlive, to_keep_alive
from proxy.openapi import Operation
from proxy.routing.router import Route

S = TypeVar("S")


class LoadRequest(Struct, kw_only=True):
    """All fields are optional, and so is the body."""

    stream: bool | None = None
    """Stream the progress as lines of JSON."""
    keep_alive: KeepAlive | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None
    backend: str | None = None
    """The name of the backend that must load it."""


class UnloadRequest(Struct, kw_only=True):
    """The field is optional, and so is the body."""

    backend: str | None = None
    """The name of the backend that must unload it; by default each that has it."""


class Residence(Struct, kw_only=True):
    """The state of a model after the request."""

    model_id: str
    backend: str
    name: str
    """The backend's own name of the model."""
    backends: list[str]
    """All backends that loaded or unloaded it, `backend` first."""
    status: Literal["loaded", "unloaded"]
    memory_bytes: int | None
    """Memory in use; null if not known."""


_LOAD = Operation(
    summary="Load a model of MLX",
    asks=(LoadRequest,),
    may_be_empty=True,
    answers=(Residence,),
    events=(Progress,),
    media_type=NDJSON.media_type,
)
_UNLOAD = Operation(
    summary="Unload a model of MLX; 429 while it answers",
    asks=(UnloadRequest,),
    may_be_empty=True,
    answers=(Residence,),
)
_LOAD_OR_UNLOAD = Operation(
    summary="Load a model on the backend that a plain chat would use, or unload it everywhere",
    asks=(LoadRequest,),
    may_be_empty=True,
    answers=(Residence,),
    events=(Progress,),
    media_type=NDJSON.media_type,
    may_force=True,
    endings=("/load", "/unload"),
)


@post("/api/models/{model:path}", status_code=200, operation=_LOAD_OR_UNLOAD, access="admin")
async def load_or_unload_model(model: FromPath[str], request: ServerRequest) -> ASGIResponse:
    """Handle `/api/models/{id}/load` and `/unload`; Litestar takes no part of a path behind an id
    with slashes."""
    name, _, action = model.removeprefix("/").rpartition("/")
    match action:
        case "load" if name:
            body = await _read_optional(request, LoadRequest)
            return await _load(request, name, body, body.backend)
        case "unload" if name:
            body = await _read_optional(request, UnloadRequest)
            return await _unload(request, name, body.backend)
        case _:
            raise MethodNotAllowedException(headers={"allow": "GET, HEAD, OPTIONS"})


@post("/api/mlx/load/{model:path}", status_code=200, operation=_LOAD, access="admin")
async def load_mlx_model(model: FromPath[str], request: ServerRequest) -> ASGIResponse:
    body = await _read_optional(request, LoadRequest)
    return await _load(request, model.removeprefix("/"), body, require_mlx(request, body.backend))


@post("/api/mlx/unload/{model:path}", status_code=200, operation=_UNLOAD, access="admin")
async def unload_mlx_model(model: FromPath[str], request: ServerRequest) -> ASGIResponse:
    body = await _read_optional(request, UnloadRequest)
    return await _unload(request, model.removeprefix("/"), require_mlx(request, body.backend))


async def _load(
    request: ServerRequest, name: str, body: LoadRequest, backend: str | None
) -> ASGIResponse:
    forced = request.forced(name, backend)
    keep_alive = to_keep_alive(body.keep_alive, body.ttl)
    if body.stream:
        return await _load_in_steps(request, forced, keep_alive)
    route = await model_loading.load(request, forced, keep_alive)
    nbytes = await request.memory.footprint(route.backend_name, route.name)
    return JSONResponse(_to_residence(name, [route], "loaded", nbytes))


async def _unload(request: ServerRequest, name: str, backend: str | None) -> ASGIResponse:
    routes = await model_loading.unload(request, request.forced(name, backend))
    return JSONResponse(_to_residence(name, routes, "unloaded", 0))


async def _read_optional(request: ServerRequest, kind: type[S]) -> S:
    body = await request.read_body() or b"{}"
    return await request.parse(body, lambda raw: request.decode(raw, kind))


def _to_residence(
    model: str, routes: list[Route], status: Literal["loaded", "unloaded"], nbytes: int | None
) -> Residence:
    return Residence(
        model_id=model,
        backend=routes[0].backend_name,
        name=routes[0].name,
        backends=[route.backend_name for route in routes],
        status=status,
        memory_bytes=nbytes,
    )


async def _load_in_steps(
    request: ServerRequest, name: str, keep_alive: float | None
) -> ASGIResponse:
    async def write(sink: EventSink[Progress]) -> None:
        async for step in model_loading.load_in_steps(request, name, keep_alive):
            sink.write(step)

    return await request.begin_stream(write, _ProgressRenderer, framing=NDJSON)


class _ProgressRenderer:
    """Encodes a line for each step; `success` comes last."""

    def __init__(self, put: Put) -> None:
        self._put = put

    def write(self, event: Progress, /) -> bool:
        return self._put(json_line(msgspec.json.encode(event)))

    def error(self, failure: Failure, /) -> bytes:
        return json_line(msgspec.json.encode(failure.body))
