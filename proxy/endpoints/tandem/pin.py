"""`POST /api/pin`: keep a model loaded, or let it go, until the server ends."""

from litestar import post
from msgspec import Struct

from proxy.endpoints import model_loading
from proxy.endpoints.server_request import ServerRequest
from proxy.openapi import Operation

_FOR_EVER = -1.0


class PinRequest(Struct, kw_only=True):
    model: str
    """Any of its names."""
    pinned: bool = True


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
    name = request.forced(wanted.model)
    if wanted.pinned:
        route = await model_loading.load(request, name, _FOR_EVER)
    else:
        route = await request.router.resolve(name, frozenset())
        request.record.attempt(route.backend_name, route.name)
    spellings = route.backend.naming.spellings(route.name)
    keys = [(route.backend_name, spelling) for spelling in spellings]
    request.memory.set_pinned(keys, pinned=wanted.pinned)
    return Pinned(
        model=wanted.model, backend=route.backend_name, name=route.name, pinned=wanted.pinned
    )
