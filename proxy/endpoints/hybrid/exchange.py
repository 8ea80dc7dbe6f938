"""What the endpoints that generate share: from a request in the contract's words to a response."""

from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from litestar import Request, Response
from litestar.di import NamedDependency
from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.events import Event
from adapters.request import GenerationRequest
from proxy.answers import Answer, collect
from proxy.config import Config
from proxy.endpoints.hybrid.times import Times
from proxy.http.clients import to_client
from proxy.http.headers import AnswerNotes
from proxy.http.streaming import NDJSON, Drain, Frame, stream, unless_gone
from proxy.images import has_images, settle_images
from proxy.registry import Registry
from proxy.routing.forcing import to_forced
from proxy.routing.router import Router

T = TypeVar("T")


class Dialect(Protocol):
    """How one request is answered: in lines, or whole."""

    def render(self, event: Event, /) -> Iterable[Frame]: ...

    def error(self, exc: Exception) -> Iterable[Frame]: ...

    def whole(self, answer: Answer) -> Struct: ...

    def to_param(self, feature: str | None) -> str | None:
        """A field of the contract -> the name of the field that the client sent."""
        ...


class Exchange(Struct):
    """One request, and what answers it."""

    request: Request[Any, Any, Any]
    config: Config
    registry: Registry
    router: Router
    drain: Drain
    notes: AnswerNotes

    def forced(self, model: str, field: str | None = None) -> str:
        """As `to_forced`."""
        return to_forced(model, self.request.headers, field, self.registry.shelves)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which ends when the client goes, or the server."""
        return await unless_gone(self.request, self.drain.limit(work))

    async def generate(
        self, asked: GenerationRequest, dialect: Dialect, times: Times, *, streamed: bool
    ) -> Response[Any]:
        """The answer as NDJSON, or as one object.

        Raises:
            BackendError: as `Router.generate`; `param` is the client's field.
        """
        try:
            asked = replace(asked, client=to_client(self.request.headers))
            if has_images(asked):
                asked = await self.finish(settle_images(asked, self.config.server.images))
            events = self.router.generate(
                asked, self.notes, whole=not streamed, through=times.watching
            )
            if streamed:
                keepalive = self.config.server.keepalive
                return await stream(self.request, events, dialect, self.drain, keepalive, NDJSON)
            (answer,) = await self.finish(collect(events))
        except BackendError as exc:
            exc.param = dialect.to_param(exc.param)
            raise
        return Response(dialect.whole(answer))


def provide_exchange(
    request: Request[Any, Any, Any],
    config: NamedDependency[Config],
    registry: NamedDependency[Registry],
    router: NamedDependency[Router],
    drain: NamedDependency[Drain],
    notes: NamedDependency[AnswerNotes],
) -> Exchange:
    return Exchange(request, config, registry, router, drain, notes)
