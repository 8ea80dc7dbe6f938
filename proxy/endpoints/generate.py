"""What the dialects that answer in lines of JSON share: from the contract's words to a response."""

from collections.abc import Iterable
from typing import Protocol

from litestar.response.base import ASGIResponse
from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.events import Event
from adapters.request import GenerationRequest
from adapters.shortcut import Shortcut
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.times import Times
from proxy.http.event_stream import NDJSON, Frame
from proxy.http.json_response import JSONResponse
from proxy.images import has_images, resolve_images
from proxy.sinks import Answer, collect


class Dialect(Protocol):
    """How one request is answered: in lines, or whole."""

    def render(self, event: Event, /) -> Iterable[Frame]: ...

    def error(self, exc: Exception) -> Iterable[Frame]: ...

    def whole(self, answer: Answer) -> Struct: ...

    def to_param(self, feature: str | None) -> str | None:
        """A field of the contract -> the name of the field that the client sent."""
        ...


async def generate(
    request: ServerRequest,
    asked: GenerationRequest,
    dialect: Dialect,
    times: Times,
    *,
    streamed: bool,
) -> ASGIResponse:
    """The answer as NDJSON, or as one object.

    Raises:
        BackendError: as `Router.generate`; `param` is the client's field.
    """
    try:
        asked = replace(asked, client=request.caller())
        if has_images(asked):
            asked = await request.finish(resolve_images(asked, request.config.server.images))
        # Lines are rendered one by one: a shortcut that nothing opens has each decoded twice.
        short = None if streamed else Shortcut()
        events = request.router.generate(
            asked, request.notes, whole=not streamed, through=times.watching, shortcut=short
        )
        if streamed:
            return await request.stream_events(events, dialect, NDJSON)
        (answer,) = await request.finish(collect(events, short))
    except BackendError as exc:
        exc.param = dialect.to_param(exc.param)
        raise
    return JSONResponse(dialect.whole(answer))
