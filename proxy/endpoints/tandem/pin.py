"""`POST /api/pin`: keep a model loaded, or let it go, until it is unloaded."""

from litestar import post
from msgspec import Struct

from proxy.endpoints import model_loading
from proxy.endpoints.server_request import ServerRequest
from proxy.openapi import Operation


class PinRequest(Struct, kw_only=True):
    model: str
    """Any of its names."""
    pinned: bool = True
    backend: str | None = None
    """The name of the backend that must keep it."""


class Pinned(Struct, kw_only=True):
    model: str
    backend: str
    name: str
    """The backend's own name of the model."""
    pinned: bool


_PIN = Operation(
    summary="Load a model and keep it loaded, or allow others to take its place",
    asks=(PinRequest,),
    answers=(Pinned,),
    may_force=True,
)


@post("/api/pin", status_code=200, operation=_PIN, access="admin")
async def pin_model(request: ServerRequest) -> Pinned:
    wanted = await request.read(PinRequest)
    model = request.forced(wanted.model, wanted.backend)
    route = await model_loading.pin(request, model, pinned=wanted.pinned)
    return Pinned(
        model=wanted.model, backend=route.backend_name, name=route.name, pinned=wanted.pinned
    )
