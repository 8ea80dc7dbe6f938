"""The outermost layer of the application: gates, fast dispatch, the record of each answer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from litestar import Litestar
from litestar.response.base import ASGIResponse
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Struct

from proxy.config import ServerConfig
from proxy.errors import ServerShutdownError, openai_body
from proxy.http.gates import JSON_TYPES, ContentTypes, refuse, to_fields
from proxy.http.headers import with_headers
from proxy.http.json_response import FailureBody, error_response
from proxy.record import Record

Handler = Callable[[Any], Awaitable[ASGIResponse]]
"""A handler that takes the request, an instance of the application's `request_class`."""


class RouteInfo(Struct, frozen=True):
    """Facts of a path for the outermost layer, from the options of its route."""

    failure_body: FailureBody = openai_body
    """Renders errors in the dialect of the route: option `failure_body`."""
    content_types: ContentTypes = JSON_TYPES
    """Content types that the route takes: option `content_types`."""
    handlers: dict[str, Handler] = {}
    """Method -> a handler that takes the request alone and makes its own answer: option `fast`,
    which is the handler, or true for the route's own."""


_UNKNOWN = RouteInfo()


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
        request_class: Callable[[Scope, Receive, Send], Any],
        readers: Iterable[Callable[[Record], None]] = (),
    ) -> None:
        """`readers` are called with the record of each answer when it has ended."""
        self._app = app.asgi_handler
        self._config = config
        self._request_class = request_class
        self._readers = tuple(readers)
        self._routes = dict(_routes(app))
        self._prefixes = [
            (path.partition("{")[0], info) for path, info in self._routes.items() if "{" in path
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http: HTTPScope = scope  # type: ignore[assignment] - no WebSocket is served
        path, method, state = http["path"], http["method"], http["state"]
        record = state["record"] = Record(method, path, self._readers)
        fields = state["fields"] = to_fields(http["headers"])
        route = self._routes.get(path) or next(
            (info for prefix, info in self._prefixes if path.startswith(prefix)), _UNKNOWN
        )
        state["failure_body"] = route.failure_body
        send = with_headers(send, record)
        try:
            handler = route.handlers.get(method)
            refusal = refuse(fields, method, self._config, route.content_types)
            try:
                if refusal is not None:
                    raise refusal
                if handler is None:
                    await self._app(scope, receive, send)
                    return
                response = await handler(self._request_class(scope, receive, send))
            except Exception as exc:
                response = error_response(exc, record, state["failure_body"])
            await response(scope, receive, send)
        except asyncio.CancelledError:  # The server ends, and its grace is over.
            record.fail(ServerShutdownError(), "server_shutdown")
            raise
        finally:
            record.close()


def _routes(app: Litestar) -> Iterator[tuple[str, RouteInfo]]:
    for route in (route for route in app.routes if isinstance(route, HTTPRoute)):
        options: dict[str, Any] = {}
        handlers: dict[str, Handler] = {}
        for handler in route.route_handlers:
            options |= handler.opt
            if (fast := handler.opt.get("fast")) is not None:
                call = handler.fn if fast is True else fast
                handlers |= dict.fromkeys(handler.http_methods, call)
        yield (
            route.path_format,
            RouteInfo(
                options.get("failure_body", openai_body),
                options.get("content_types", JSON_TYPES),
                handlers,
            ),
        )
