"""`/api/mlx/…`: MLX and nothing else. `GET /api/mlx/models` is in `models.py`."""

from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

from litestar import post
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta, Struct
from msgspec.structs import replace

from adapters.backend import Progress
from adapters.errors import BackendUnavailableError, InvalidRequestError
from proxy.endpoints import residence
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.prompt import PromptAnswer, PromptRequest, answer_prompt
from proxy.endpoints.times import Times
from proxy.errors import to_failure
from proxy.http.body import read_body, receive, understand
from proxy.http.event_stream import NDJSON, Frame
from proxy.http.json_response import JSONResponse
from proxy.keep_alive import KeepAlive, to_keep_alive
from proxy.operation import Operation
from proxy.routing.router import Route

S = TypeVar("S")


class LoadRequest(Struct, kw_only=True):
    """All of it may be left out, and so may the body."""

    stream: bool | None = None
    """Tell how far it is, a line of JSON each time."""
    keep_alive: KeepAlive | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None


class UnloadRequest(Struct):
    """Nothing is needed, and the body may be left out."""


class Residence(Struct, kw_only=True):
    """What became of a model."""

    model_id: str
    backend: str
    name: str
    """The backend's own."""
    status: Literal["loaded", "unloaded"]
    memory_bytes: int | None
    """What it takes now; null where nobody knows."""


_GENERATE = Operation(
    summary="A prompt to a model on MLX",
    asks=(PromptRequest,),
    answers=(PromptAnswer,),
    events=(PromptAnswer,),
    media_type=NDJSON.media_type,
)
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


@post("/api/mlx/generate", status_code=200, operation=_GENERATE, fast=True)
async def create_mlx_generation(request: ServerRequest) -> ASGIResponse:
    times = Times()
    backend = require_mlx(request)
    body = await read_body(request, PromptRequest)
    if body.backend not in (None, backend):
        raise InvalidRequestError("Here it is always MLX that answers.", param="backend")
    return await answer_prompt(request, replace(body, backend=backend), times)


@post("/api/mlx/load/{model:path}", status_code=200, operation=_LOAD)
async def load_mlx_model(model: FromPath[str], request: ServerRequest) -> ASGIResponse:
    require_mlx(request)
    body = await _read_optional(request, LoadRequest)
    keep_alive = to_keep_alive(body.keep_alive, body.ttl)
    name = model.removeprefix("/")
    if body.stream:
        return await _load_in_steps(request, _forced(request, name), keep_alive)
    route = await residence.load(request, _forced(request, name), keep_alive)
    taken = await request.memory.footprint(route.backend_name, route.name)
    return JSONResponse(_tell(name, route, "loaded", taken))


@post("/api/mlx/unload/{model:path}", status_code=200, operation=_UNLOAD)
async def unload_mlx_model(model: FromPath[str], request: ServerRequest) -> ASGIResponse:
    require_mlx(request)
    await _read_optional(request, UnloadRequest)
    name = model.removeprefix("/")
    route = await residence.unload(request, _forced(request, name))
    return JSONResponse(_tell(name, route, "unloaded", 0))


def require_mlx(request: ServerRequest) -> str:
    """The name of the backend of kind `mlx`.

    Raises:
        BackendUnavailableError: there is none.
    """
    name = request.registry.name_of("mlx")
    if name is None:
        raise BackendUnavailableError("The mlx backend is switched off.", lasting=True)
    return name


async def _read_optional(request: ServerRequest, kind: type[S]) -> S:
    return understand(request, await receive(request) or b"{}", kind)


def _forced(request: ServerRequest, name: str) -> str:
    return request.forced(name, require_mlx(request))


def _tell(
    model: str, route: Route, status: Literal["loaded", "unloaded"], taken: int | None
) -> Residence:
    return Residence(
        model_id=model,
        backend=route.backend_name,
        name=route.name,
        status=status,
        memory_bytes=taken,
    )


async def _load_in_steps(
    request: ServerRequest, name: str, keep_alive: float | None
) -> ASGIResponse:
    steps = residence.load_in_steps(request, name, keep_alive)
    return await request.stream_events(steps, _Steps(), NDJSON)


class _Steps:
    """Bytes so far, and `success` at the end."""

    def render(self, event: Progress, /) -> Iterable[Frame]:
        return (Frame(event),)

    def error(self, exc: Exception) -> Iterable[Frame]:
        return (Frame(to_failure(exc).body),)
