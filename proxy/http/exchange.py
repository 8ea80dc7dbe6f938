"""One request, and the parts of the server that answer it."""

from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from litestar import Request
from litestar.response.base import ASGIResponse

from adapters.shortcut import Shortcut
from proxy.bench.archive import Archive
from proxy.config import Config
from proxy.http.clients import to_client
from proxy.http.gates import Fields
from proxy.http.headers import AnswerNotes, notes_of
from proxy.http.streaming import SSE, Drain, Framing, Renderer, stream, unless_gone
from proxy.memory import Memory
from proxy.openapi import Document
from proxy.registry import Registry
from proxy.routing.forcing import to_forced
from proxy.routing.measurements import Measurements
from proxy.routing.router import Router

T = TypeVar("T")


class Exchange(Request[Any, Any, Any]):
    """The application's `request_class`. Litestar would put the same parts into a handler's
    arguments, as dependencies, for as much time as it takes to read a body."""

    @property
    def config(self) -> Config:
        return self.app.state["config"]

    @property
    def registry(self) -> Registry:
        return self.app.state["registry"]

    @property
    def router(self) -> Router:
        return self.app.state["router"]

    @property
    def memory(self) -> Memory:
        return self.app.state["memory"]

    @property
    def measurements(self) -> Measurements:
        return self.app.state["measurements"]

    @property
    def archive(self) -> Archive:
        return self.app.state["archive"]

    @property
    def document(self) -> Document:
        return self.app.state["document"]

    @property
    def drain(self) -> Drain:
        return self.app.state["drain"]

    @property
    def notes(self) -> AnswerNotes:
        return notes_of(self.scope)

    @property
    def fields(self) -> Fields:
        """The headers, as the gates have read them."""
        return self.scope["state"]["fields"]

    def caller(self, cache_key: str | None = None) -> str:
        """As `to_client`."""
        return to_client(self.fields, cache_key)

    def forced(self, model: str, field: str | None = None) -> str:
        """As `to_forced`."""
        return to_forced(model, self.fields, field, self.registry.shelves)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which ends when the client goes, or the server."""
        return await unless_gone(self, self.drain.limit(work))

    async def stream_events(
        self,
        events: AsyncGenerator[T],
        renderer: Renderer[T],
        framing: Framing = SSE,
        shortcut: Shortcut[T] | None = None,
    ) -> ASGIResponse:
        """As `stream`."""
        keepalive = self.config.server.keepalive
        made = await stream(self, events, renderer, self.drain, keepalive, framing, shortcut)
        return made.to_asgi_response(None, self)  # pyright: ignore[reportUnknownMemberType]
