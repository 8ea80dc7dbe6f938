"""One request, and the parts of the server that answer it."""

from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

from litestar import Request
from litestar.connection.base import empty_receive, empty_send
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from proxy.assembly import Parts
from proxy.bench.archive import Archive
from proxy.config import Config
from proxy.http.clients import to_client
from proxy.http.event_stream import SSE, Framing, Renderer, ShutdownGrace, Texts, limited, stream
from proxy.http.gates import Fields
from proxy.http.headers import notes_of
from proxy.memory.budget import SharedBudget
from proxy.models.registry import Registry
from proxy.openapi import Document
from proxy.routing.measurements import Measurements
from proxy.routing.override import to_override
from proxy.routing.router import Router

T = TypeVar("T")


class ServerParts(Parts, frozen=True, kw_only=True):
    """All that the application has for answering."""

    config: Config
    archive: Archive
    drain: ShutdownGrace
    document: Document


class ServerRequest(Request[Any, Any, Any]):
    """The application's `request_class`. Litestar would put the same parts into a handler's
    arguments, as dependencies, for as much time as it takes to read a body."""

    __slots__ = ("_parts", "fields", "notes")

    def __init__(
        self, scope: Scope, receive: Receive = empty_receive, send: Send = empty_send
    ) -> None:
        super().__init__(scope, receive, send)
        self._parts: ServerParts = self.app.state["parts"]
        self.fields: Fields = scope["state"]["fields"]
        """The headers, as the gates have read them."""
        self.notes = notes_of(scope)

    @property
    def config(self) -> Config:
        return self._parts.config

    @property
    def registry(self) -> Registry:
        return self._parts.registry

    @property
    def router(self) -> Router:
        return self._parts.router

    @property
    def memory(self) -> SharedBudget:
        return self._parts.memory

    @property
    def measurements(self) -> Measurements:
        return self._parts.measurements

    @property
    def archive(self) -> Archive:
        return self._parts.archive

    @property
    def document(self) -> Document:
        return self._parts.document

    @property
    def drain(self) -> ShutdownGrace:
        return self._parts.drain

    def caller(self, cache_key: str | None = None) -> str:
        """As `to_client`."""
        return to_client(self.fields, cache_key)

    def forced(self, model: str, field: str | None = None) -> str:
        """As `to_forced`."""
        return to_override(model, self.fields, field, self.registry.backends)

    async def finish(self, work: Awaitable[T]) -> T:
        """The result of `work`, which ends when the client goes, or the server."""
        return await limited(work, drain=self.drain, request=self)

    async def stream_events(
        self,
        events: AsyncGenerator[T],
        renderer: Renderer[T],
        framing: Framing = SSE,
        texts: Texts | None = None,
    ) -> ASGIResponse:
        """As `stream`."""
        keepalive = self.config.server.keepalive
        return await stream(self, events, renderer, self.drain, keepalive, framing, texts)
