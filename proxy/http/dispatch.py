"""The outermost layer of the application: gates, fast dispatch, the record of each answer."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableSet
from functools import partial
from pathlib import Path
from typing import Any

from litestar import Litestar
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.response.base import ASGIResponse
from litestar.routes import HTTPRoute, WebSocketRoute
from litestar.types import HTTPScope, Message, Receive, Scope, Send, WebSocketScope
from msgspec import Struct
from msgspec.structs import replace

from adapters.upstream.trace_context import new_trace, reset_trace, set_trace, to_trace_context
from proxy.access.keys import Access
from proxy.config import ServerConfig
from proxy.errors import (
    ExplainedHTTPError,
    RateLimitError,
    ServerShutdownError,
    UnauthorizedError,
)
from proxy.http.cors import AllowedMethods, Preflight, is_preflight, to_cors_headers
from proxy.http.gates import (
    ANY_TYPES,
    API_TYPES,
    JSON_TYPES,
    ContentTypes,
    Fields,
    is_page_refused,
    refuse_body,
    refuse_source,
    to_fields,
)
from proxy.http.headers import with_headers
from proxy.http.json_response import OPENAI_ERRORS, ErrorDialect
from proxy.record import Record

Handler = Callable[[Any], Awaitable[ASGIResponse]]
"""A handler that takes the request, an instance of the application's `request_class`."""


class RouteInfo(Struct, frozen=True):
    """Facts of a path for the outermost layer, from the options of its route."""

    errors: ErrorDialect | None = None
    """The dialect of errors: option `errors`; by default OpenAI's, or that which a header of the
    request asks for."""
    content_types: ContentTypes = JSON_TYPES
    """Content types that the route takes: option `content_types`; below `/api/`, where curl is
    at home, JSON under the name of a form by default."""
    methods: tuple[str, ...] = ("DELETE", "GET", "HEAD", "OPTIONS", "POST")
    """For an unknown path those of all routes, so that a page can read that it is unknown."""
    public: frozenset[str] = frozenset()
    """Methods that need no key: those of handlers with the option `access="public"`."""
    handlers: dict[str, Handler] = {}
    """Method -> a handler that takes the request alone and makes its own answer: option `fast`,
    which is the handler, or true for the route's own."""
    absence: str | None = None
    """Why the path has no route, though an API that is served in part has it."""

    @property
    def allow(self) -> dict[str, str]:
        """The header with the methods; Litestar's own does not know of HEAD."""
        return {"allow": ", ".join(self.methods)}


_NO_ERRORS: Mapping[str, ErrorDialect] = {}
_UNKNOWN = RouteInfo()
_SEGMENTS = 8
"""Segments at the end of an unknown path that are looked up."""


class Absence(Struct, frozen=True):
    """Why a path has no route, though an API that is served in part has it."""

    detail: str
    errors: ErrorDialect | None = None
    """The errors of that API; `None`: by the headers of the client."""


class Dispatch:
    """ASGI, around Litestar: its middleware misses paths without a route.

    Fast dispatch: exact method and path of a handler with the option `fast` skip Litestar's routing
    and argument parsing, a tenth of the cost of a short answer. Litestar has these routes as well,
    for any other spelling of the path, with the same answers.
    """

    def __init__(
        self,
        app: Litestar,
        config: ServerConfig,
        access: Access,
        request_class: Callable[[Scope, Receive, Send], Any],
        readers: Iterable[Callable[[Record], None]] = (),
        errors_by_header: Mapping[str, ErrorDialect] = _NO_ERRORS,
        errors_by_root: Mapping[str, ErrorDialect] = _NO_ERRORS,
        running: MutableSet[Record] | None = None,
        *,
        explain_absence: Callable[[str], "Absence | None"] = lambda _: None,
        is_traced: bool = False,
    ) -> None:
        """`running` has the records of the requests in progress. `is_traced`: each request gets a
        span of its own.

        `readers` are called with the record of each answer when it has ended.

        `errors_by_header`: name of a header that only clients of a dialect send -> the errors that
        they understand, for paths that have no dialect of their own.
        `errors_by_root`: beginning of unknown paths -> the errors of the API that has it.
        `explain_absence`: the reason why a path of an API that is served in part has no route.
        """
        self._app = app.asgi_handler
        self.access = access
        self.config = config
        """The keys and the settings of the gates, which a reload replaces."""
        self._request_class = request_class
        self._readers = tuple(readers)
        self._errors_by_header = errors_by_header
        self._errors_by_root = errors_by_root
        self._explain_absence = explain_absence
        self._running = running
        self._is_traced = is_traced
        self._routes = dict(_routes(app))
        self._sockets = {r.path_format for r in app.routes if isinstance(r, WebSocketRoute)}
        self._patterns = [
            (_to_pattern(route).fullmatch, self._routes[route.path_format])
            for route in _http_routes(app)
            if route.path_parameters
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open_socket(scope, receive, send)
            return
        http: HTTPScope = scope  # pyright: ignore[reportAssignmentType] - or a lifespan, of Litestar's
        record, fields = self._begin(http, http["method"])
        if self._is_traced or "traceparent" in fields:
            _note_trace(record, fields, is_traced=self._is_traced)
        route = self._routes.get(http["path"]) or self._find_other(http["path"])
        state = http["state"]
        state["errors"] = route.errors or self._errors_by(fields)
        send = with_headers(send, record, self._other_headers(fields, state["errors"], record))
        if http["method"] == "HEAD":
            http, send = http.copy(), _without_body(send)
            http["method"] = "GET"
        trace = set_trace(record.span) if record.span is not None else None
        try:
            try:
                self._check(http, route)
                if (handler := route.handlers.get(http["method"])) is not None:
                    response = await handler(self._request_class(http, receive, send))
                else:
                    response = await self._answer(http, receive, send, route)
            except Exception as exc:
                response = state["errors"].respond(exc, record)  # A handler may replace them.
            if response is not None:
                await response(http, receive, send)
        except asyncio.CancelledError:  # The server ends, and its grace is over.
            record.fail(ServerShutdownError(), "server_shutdown")
            raise
        finally:
            if trace is not None:
                reset_trace(trace)
            record.close()

    def _check(self, http: HTTPScope, route: RouteInfo) -> None:
        """Let the request through the gates.

        Raises:
            Exception: as `_admit` and `refuse_body`.
        """
        method, record, fields = http["method"], http["state"]["record"], http["state"]["fields"]
        self._admit(fields, method, record, is_public=method in route.public)
        if (refusal := refuse_body(fields, method, route.content_types)) is not None:
            raise refusal

    async def _answer(
        self, http: HTTPScope, receive: Receive, send: Send, route: RouteInfo
    ) -> ASGIResponse | None:
        """Answer without fast dispatch; `None` where Litestar has sent the response.

        Raises:
            HTTPException: the path or the method is unknown.
        """
        method, fields = http["method"], http["state"]["fields"]
        if route.absence is not None:
            raise ExplainedHTTPError(status_code=404, detail=route.absence)
        if method not in route.methods and route is not _UNKNOWN:
            raise MethodNotAllowedException(headers=route.allow)
        if is_preflight(fields, method):
            return Preflight(fields, route.methods)
        if route is _UNKNOWN:
            self._suggest(http["path"], f"{http['scheme']}://{fields['host']}")
            http["state"]["errors"] = self._errors_below(http["path"], http["state"]["errors"])
        elif method == "OPTIONS":
            return AllowedMethods(route.methods)
        await self._app(http, receive, send)
        return None

    def _other_headers(
        self, fields: Fields, errors: ErrorDialect, record: Record
    ) -> list[tuple[bytes, bytes]]:
        """List the headers of every answer beside those that the record knows."""
        headers = [*to_cors_headers(fields, self.config.page_origins)]
        if errors.id_header is not None:
            headers.append((errors.id_header.encode(), record.request_id.encode()))
        return headers

    def _begin(self, scope: HTTPScope | WebSocketScope, method: str) -> tuple[Record, Fields]:
        """Create the record of a request and its header fields, in the state of `scope` too."""
        state = scope["state"]
        record = state["record"] = Record(
            method, scope["path"], self._readers, running=self._running
        )
        fields = state["fields"] = to_fields(scope["headers"])
        record.agent = fields.get("user-agent", "")
        record.address = scope["client"][0] if scope["client"] else ""
        return record, fields

    def _admit(
        self, fields: Fields, method: str, record: Record, *, is_public: bool = False
    ) -> None:
        """Check host, origin, and, unless the route `is_public`, key and limits.

        A browser sends no key with the question what a page may send.

        Raises:
            HTTPException: 403: host or origin are foreign.
            UnauthorizedError: the route needs a key, and the request has none.
            RateLimitError: the key has sent enough requests.
        """
        if (refusal := refuse_source(fields, self.config)) is not None:
            raise refusal
        if not is_public and not is_preflight(fields, method):
            refused = is_page_refused(fields, self.config)
            record.grant = self.access.admit(fields, is_page_refused=refused)
            record.grant.limits.take_request()

    async def _open_socket(self, scope: WebSocketScope, receive: Receive, send: Send) -> None:
        """Open a WebSocket if the gates of HTTP let its request pass, or answer with an error."""
        path, state = scope["path"], scope["state"]
        record, fields = self._begin(scope, "GET")
        errors = state["errors"] = self._errors_by(fields)
        cors = to_cors_headers(fields, self.config.page_origins)
        try:
            try:
                self._admit(fields, "GET", record)
                # Each answer is admitted anew: a reload may have taken the key away.
                state["admit"] = partial(self._admit, fields, "GET")
                if path not in self._sockets:
                    detail = f"There is no WebSocket at '{path[:200]}'."
                    raise ExplainedHTTPError(status_code=404, detail=detail)
            except (HTTPException, UnauthorizedError, RateLimitError) as refusal:
                response = errors.respond(refusal, record)
                await response(scope, receive, with_headers(_as_denial(send), record, cors))
            else:
                await self._app(scope, receive, with_headers(send, record, cors))
        finally:
            record.close()

    def errors_of(self, path: str, fields: Fields) -> ErrorDialect:
        """Return the dialect of the errors of a request that does not get here."""
        route = self._routes.get(path) or self._find_other(path)
        return route.errors or self._errors_by(fields)

    def _errors_by(self, fields: Fields) -> ErrorDialect:
        for header, errors in self._errors_by_header.items():
            if header in fields:
                return errors
        return OPENAI_ERRORS

    def _errors_below(self, path: str, usual: ErrorDialect) -> ErrorDialect:
        roots = self._errors_by_root.items()
        return next((errors for root, errors in roots if path.startswith(root)), usual)

    def _find_other(self, path: str) -> RouteInfo:
        """Return the route of a `path` with parameters or a slash at its end, or why there is
        none."""
        if (route := self._routes.get(path.rstrip("/"))) is not None:
            return replace(route, handlers={})  # Litestar finds the handler.
        route = self._with_parameter(path)
        if route is not _UNKNOWN or (absence := self._explain_absence(path)) is None:
            return route
        return RouteInfo(absence.errors, ANY_TYPES, absence=absence.detail)

    def _with_parameter(self, path: str) -> RouteInfo:
        return next((info for matches, info in self._patterns if matches(path)), _UNKNOWN)

    def _suggest(self, path: str, server: str) -> None:
        """Refuse an unknown `path` that ends like a known one, with the URL that is meant.

        Clients with the base URL of Ollama, Azure or of no `/v1` send such paths.

        Raises:
            ExplainedHTTPError: 404; `detail` has the URL.
        """
        parts = [part for part in path.split("/") if part][-_SEGMENTS:]
        ends = ["/".join(parts[at:]) for at in range(len(parts))]
        for meant in (f"{root}/{end}" for end in ends for root in ("", "/v1", "/api")):
            if meant in self._routes or self._with_parameter(meant) is not _UNKNOWN:
                base = f" (base URL {server}/v1)" if meant.startswith("/v1/") else ""
                raise ExplainedHTTPError(
                    status_code=404,
                    detail=f"There is nothing at '{path[:200]}'. Use {server}{meant}{base}.",
                )


def _note_trace(record: Record, fields: Fields, *, is_traced: bool) -> None:
    """Note the client's span; without spans of its own, the server passes it on as it is."""
    parent = record.parent_span = to_trace_context(fields)
    if not is_traced:
        record.span = parent
    else:
        record.span = parent.child() if parent is not None else new_trace()


def _without_body(send: Send) -> Send:
    """Wrap `send` for HEAD, which is answered as GET, without the body."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message["body"] = b""
        await send(message)

    return send_head


def _as_denial(send: Send) -> Send:
    """Wrap `send` for an HTTP response in place of a WebSocket."""

    async def send_denial(message: Message) -> None:
        denial: Any = {**message, "type": f"websocket.{message['type']}"}
        await send(denial)

    return send_denial


def _http_routes(app: Litestar) -> list[HTTPRoute]:
    return [route for route in app.routes if isinstance(route, HTTPRoute)]


def _to_pattern(route: HTTPRoute) -> re.Pattern[str]:
    """Match the paths of a route with parameters, of which those of type `path` have slashes."""
    pattern = re.escape(route.path_format)
    for name, parameter in route.path_parameters.items():
        part = ".+" if parameter.type is Path else "[^/]+"
        pattern = pattern.replace(re.escape(f"{{{name}}}"), part)
    return re.compile(f"{pattern}/?", re.DOTALL)


def _routes(app: Litestar) -> Iterator[tuple[str, RouteInfo]]:
    for route in _http_routes(app):
        options: dict[str, Any] = {}
        handlers: dict[str, Handler] = {}
        methods: set[str] = set()
        public: set[str] = set()
        for handler in route.route_handlers:
            options |= handler.opt
            methods |= handler.http_methods
            if handler.opt.get("access") == "public":
                public |= handler.http_methods
            # Roles are checked behind Litestar's routing, for any spelling of a path.
            if (fast := handler.opt.get("fast")) is not None and "access" not in handler.opt:
                call = handler.fn if fast is True else fast
                handlers |= dict.fromkeys(handler.http_methods, call)
        is_api = route.path_format.startswith("/api/")
        yield (
            route.path_format,
            RouteInfo(
                options.get("errors"),
                options.get("content_types", API_TYPES if is_api else JSON_TYPES),
                tuple(sorted(methods | ({"HEAD"} if "GET" in methods else set()))),
                frozenset(public),
                handlers,
            ),
        )
