"""The request class of the application, with the parts of the server."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.connection.base import empty_receive, empty_send
from litestar.handlers import BaseRouteHandler
from litestar.types import Receive, Scope, Send
from prometheus_client import CollectorRegistry

from adapters.backend import Embeddings
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import EmbeddingRequest
from proxy.access.grant import Grant
from proxy.access.keys import to_keys
from proxy.assembly import Parts
from proxy.audio.decoded import DecodedAudio
from proxy.bench.archive import Archive
from proxy.config import Config
from proxy.encryption import Encryption
from proxy.errors import ExplainedHTTPError, NotStoredError, StorageError
from proxy.health import HealthReports
from proxy.http.body import convert, convert_texts, decode, receive_body, unknown_fields
from proxy.http.event_stream import (
    SSE,
    EventSink,
    Framing,
    Limits,
    Put,
    Renderer,
    ShutdownGrace,
    StreamedResponse,
    stream,
)
from proxy.http.gates import Fields
from proxy.http.json_response import ErrorDialect
from proxy.http.query import to_nested
from proxy.images import Fetch
from proxy.inspector import Inspector
from proxy.live import Live
from proxy.log_buffer import LogBuffer
from proxy.memory.budget import SharedBudget
from proxy.models.registry import RegisteredModel, Registry
from proxy.openapi import Document
from proxy.record import Record
from proxy.reload import LiveConfig
from proxy.routing.measurements import Measurements
from proxy.routing.override import to_override
from proxy.routing.router import Router
from proxy.stored.entry import Entry, Item, Metadata
from proxy.stored.running import RunningAnswers
from proxy.stored.store import Store

log = logging.getLogger("tandem")

T = TypeVar("T")
Connection = ASGIConnection[Any, Any, Any, Any]

_SHORTEST_KEEP_ALIVE = 1.0
"""Seconds; a shorter time is an unload after the answer."""

_LARGE_BODY = 65_536
"""Bytes from which a body is parsed on a thread."""


class ServerParts(Parts, frozen=True, kw_only=True):
    """The parts of the server that handlers use."""

    live: LiveConfig
    """The configuration, which can be reloaded."""
    archive: Archive
    audio: DecodedAudio
    grace: ShutdownGrace
    document: Document
    fetch_image: Fetch
    encryption: Encryption
    running: RunningAnswers
    """Background answers in progress."""
    activity: Live
    health: HealthReports
    inspector: Inspector
    logs: LogBuffer
    metrics: CollectorRegistry
    store: Store | None
    """Stored answers; `None` where the configuration keeps none."""


_NO_NAMES: Mapping[str, str] = {}


class ServerRequest(Request[Any, Any, Any]):
    """The application's `request_class`. Litestar's dependency injection would pass the same parts
    to handlers for as much time as it takes to read a body."""

    __slots__ = ("_parts", "fields", "record")

    def __init__(
        self, scope: Scope, receive: Receive = empty_receive, send: Send = empty_send
    ) -> None:
        super().__init__(scope, receive, send)
        self._parts: ServerParts = self.app.state["parts"]
        self.fields: Fields = scope["state"]["fields"]
        """The headers, names in lower case."""
        self.record: Record = scope["state"]["record"]

    @property
    def grant(self) -> Grant:
        """The permissions of the request."""
        return self.record.grant

    @property
    def config(self) -> Config:
        return self._parts.live.current

    @property
    def live(self) -> LiveConfig:
        return self._parts.live

    @property
    def registry(self) -> Registry:
        return self._parts.registry

    @property
    def router(self) -> Router:
        """The router, restricted to what the request may do."""
        router, grant = self._parts.router, self.grant
        return router.restricted(grant) if grant.is_limited else router

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
    def audio(self) -> DecodedAudio:
        return self._parts.audio

    @property
    def encryption(self) -> Encryption:
        return self._parts.encryption

    @property
    def document(self) -> Document:
        return self._parts.document

    @property
    def running(self) -> RunningAnswers:
        return self._parts.running

    @property
    def activity(self) -> Live:
        return self._parts.activity

    @property
    def health(self) -> HealthReports:
        return self._parts.health

    @property
    def inspector(self) -> Inspector:
        return self._parts.inspector

    @property
    def logs(self) -> LogBuffer:
        return self._parts.logs

    @property
    def metrics(self) -> CollectorRegistry:
        return self._parts.metrics

    @property
    def store(self) -> Store | None:
        return self._parts.store

    @property
    def fetch_image(self) -> Fetch:
        return self._parts.fetch_image

    @property
    def grace(self) -> ShutdownGrace:
        return self._parts.grace

    async def read_body(self) -> bytes:
        """Read the body; errors as in `receive_body` and `arrival`."""
        body = await self.arrival(receive_body(self.receive, self.fields, self.config.server))
        self.inspector.begin(self.record.request_id, body)
        return body

    async def arrival(self, body: Awaitable[T]) -> T:
        """Await a body that is received; the end of the server does not wait for the rest of it.

        Raises:
            ServerShutdownError: the server ends before the body is complete.
        """
        async with Limits(self.grace, has_begun=lambda: False):
            return await body

    async def read(self, kind: type[T]) -> T:
        """Read the body as a `kind`; errors as in `decode`."""
        return await self.parse(await self.read_body(), lambda body: self.decode(body, kind))

    async def parse(self, body: bytes, parse: Callable[[bytes], T]) -> T:
        """Return the result of `parse`, on a thread for a large body.

        There a decoder holds the event loop for the time that the limits of `BodyScan` allow, and
        what is written in Python lets it have its turns.
        """
        return await self.work(len(body), partial(parse, body))

    async def work(self, size: int, work: Callable[[], T]) -> T:
        """Return the result of `work` on what a body of `size` bytes has, as `parse` does."""
        return work() if size < _LARGE_BODY else await asyncio.to_thread(work)

    def decode(self, body: bytes, kind: type[T], other_names: Mapping[str, str] = _NO_NAMES) -> T:
        """Decode `body` as a `kind`; unknown fields go to `x-tandem-ignored`.

        `other_names`: for fields of other APIs, the fields of this one with the same meaning.

        Raises:
            InvalidRequestError: it is not a `kind`, or has unknown fields with `strict_fields`.
            UnsupportedParameterError: it has a field of another API.
        """
        return self.convert(decode(body, object), kind, other_names)

    def convert(
        self, value: object, kind: type[T], other_names: Mapping[str, str] = _NO_NAMES
    ) -> T:
        """Convert a decoded body to a `kind`, as `decode` does."""
        # First: a field that is missing may be there under its other name.
        _refuse_other_names(value, other_names)
        return self._checked(value, convert(value, kind))

    def _checked(self, raw: object, decoded: T) -> T:
        unknown = unknown_fields(raw, decoded)
        if unknown and self.config.server.strict_fields:
            raise InvalidRequestError(f"Unknown parameter: '{unknown[0][:200]}'.", param=unknown[0])
        self.record.unknown = unknown
        return decoded

    def read_query(self, kind: type[T]) -> T:
        """Read the query as a `kind`; unknown names go to `x-tandem-ignored`.

        Raises:
            InvalidRequestError: it is not a `kind`.
        """
        raw = to_nested(self.scope["query_string"])
        query = convert_texts(raw, kind)
        self.record.unknown = unknown_fields(raw, query)
        return query

    async def keep(
        self,
        entry: Entry,
        metadata: Metadata | None = None,
        items: Sequence[Item] = (),
        parts: Iterable[str] = (),
    ) -> None:
        """Store `entry` as `Store.keep`; a failure is logged, and costs no answer."""
        try:
            await self.stored().keep(entry, metadata, items, parts)
        except StorageError as exc:
            log.error("Stored answers: %s is not kept: %s", entry.id, exc)
            self.record.unknown += ("store",)

    async def append(self, conversation: str, items: Sequence[Item]) -> None:
        """Add `items` to a conversation; a failure is logged, and costs no answer."""
        try:
            await self.stored().append(conversation, self.caller(), items)
        except (NotStoredError, StorageError) as exc:
            log.error("Stored answers: %s does not get its new items: %s", conversation, exc)
            self.record.unknown += ("conversation",)

    def stored(self) -> Store:
        """Return the store.

        Raises:
            ExplainedHTTPError: 404: the configuration keeps no answers.
        """
        if self.store is None:
            raise ExplainedHTTPError(
                status_code=404,
                detail="This server keeps no answers: `server.store` is false in its config.yaml.",
            )
        return self.store

    def caller(self, cache_key: str | None = None) -> str:
        """Digest the name of the request's key and `cache_key`, which a backend may know.

        Without keys in the configuration, it is the key that was sent; empty without both.
        """
        name = self.grant.key
        keys = to_keys(self.fields) if name is None else ()
        sent = keys[-1] if keys else ""
        if name is None and not sent and not cache_key:
            return ""
        # The lengths keep ("ab", "c") and ("a", "bc") apart.
        owner = f"{len(sent)}:{sent}" if name is None else f"name:{len(name)}:{name}"
        return hashlib.sha256(f"{owner}{cache_key or ''}".encode()).hexdigest()[:16]

    def entries(self) -> list[RegisteredModel]:
        """List the models that can answer now and that the request may use."""
        return [e for e in self.registry.entries() if self.grant.allows(*e.all_names)]

    def check_keep_alive(self, seconds: float | None) -> None:
        """Check that the request may set `seconds`: hardly any unload the model.

        Raises:
            ExplainedHTTPError: 403: it may not.
        """
        if seconds is not None and 0 <= seconds < _SHORTEST_KEEP_ALIVE:
            self.grant.require_admin("Unloading a model by 'keep_alive' or 'ttl'")

    def forced(self, model: str, field: str | None = None) -> str:
        """Prefix `model` with the backend that the request requires; see `to_override`."""
        self.record.model = model
        return to_override(model, self.fields, field, self.registry.backends)

    def detached(self) -> "ServerRequest":
        """Create a request for work that outlasts this one, with a record of its own."""
        state = {**self.scope["state"], "record": self.record.detached()}
        return ServerRequest({**self.scope, "state": state, "extensions": {}})

    def answer_errors_with(self, errors: ErrorDialect) -> None:
        """Set the dialect of errors, for routes on which the body decides on it."""
        self.scope["state"]["errors"] = errors

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Compute vectors within the limits of the request's key.

        Raises:
            BackendError: as `Router.embed`.
            ExplainedHTTPError: 403: it unloads the model, and may not administer.
            RateLimitError: a limit is reached.
        """
        self.check_keep_alive(request.keep_alive)
        with self.grant.limits.answer_in_progress():
            embeddings = await self.finish(self.router.embed(request, self.record))
            self.grant.limits.take_tokens(embeddings.prompt_tokens)
        return embeddings

    async def finish(self, work: Awaitable[T], has_begun: Callable[[], bool] = lambda: True) -> T:
        """Await `work`, which ends when the client disconnects, or with the server's grace.

        `has_begun`: as in `ShutdownGrace.timeout`.
        """
        async with Limits(self.grace, self, has_begun):
            return await work

    def begin_stream(
        self,
        write: Callable[[EventSink[T]], Awaitable[object]],
        renderer: Callable[[Put], Renderer[T]],
        framing: Framing = SSE,
        settle: Callable[[], Awaitable[None]] | None = None,
    ) -> Awaitable[StreamedResponse]:
        """Begin a streamed answer; arguments and errors as `proxy.http.event_stream.stream`."""
        return stream(
            self,
            write,
            renderer,
            record=self.record,
            grace=self.grace,
            keepalive=self.config.server.keepalive,
            framing=framing,
            settle=settle,
        )


async def check_role(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard of all routes: those with the option `access="admin"` require that role.

    Asynchronous, because Litestar runs other guards on a thread, of which none may be free.

    Raises:
        ExplainedHTTPError: 403: the request may not administer.
    """
    if handler.opt.get("access") == "admin":
        record: Record = connection.scope["state"]["record"]
        record.grant.require_admin(f"{record.method} {record.path[:200]}")


def answer_error(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    """Answer any error of Litestar or a handler, in the dialect of the route."""
    state = request.scope["state"]
    errors: ErrorDialect = state["errors"]
    response = errors.respond(exc, state["record"])
    return Response(
        response.body,
        status_code=response.status_code,
        headers=response.headers,
        media_type="application/json",
    )


def _refuse_other_names(value: object, other_names: Mapping[str, str]) -> None:
    """
    Raises:
        UnsupportedParameterError: `value` has a field of another API.
    """
    fields = cast(Mapping[str, object], value) if isinstance(value, dict) else _NO_NAMES
    for name, here in other_names.items():
        if fields.get(name) is not None:
            raise UnsupportedParameterError(
                f"Unsupported parameter: '{name}'. In this API it is '{here}'.", param=name
            )
