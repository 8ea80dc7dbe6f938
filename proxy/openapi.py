"""OpenAPI 3.1 document of the server, generated from its routes.

Litestar's own generator is not used: it does not see bodies that handlers read raw, and it lists
errors that this server never sends.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from msgspec import Struct
from msgspec.structs import fields

from proxy.errors import (
    BACKEND_ERRORS,
    GONE,
    HTTP_ERRORS,
    INTERNAL,
    RATE_LIMITED,
    SHUTDOWN,
    UNAUTHORIZED,
    ErrorBody,
)

JSON = dict[str, Any]

_ABOUT = (
    "OpenAI's API over MLX and Ollama, the hybrid API of both, and Ollama's API. Unknown request "
    "fields are listed in `x-tandem-ignored`; fields that cannot be honoured are a 400."
)
_STREAM = {
    "text/event-stream": "With `stream`: server-sent events with these objects as data.",
    "application/x-ndjson": "Streamed: an object per line; a failure is a line with `error`.",
}
_HEADERS = {
    "x-request-id": "Id of the request, to be quoted in reports.",
    "x-tandem-backend": "Backend that answered; `none` if no backend was used.",
    "x-tandem-fallback-from": "Backend that failed before, and how.",
    "x-tandem-context": "Context length in tokens, for prompt and answer together.",
    "x-tandem-ignored": "Unknown fields of the body, and parts of schemas that are not enforced.",
}
_ERROR_HEADERS = {
    "retry-after": "Seconds after which to retry.",
    "x-should-retry": "`false` if the same request will fail again.",
}
_KEYS: JSON = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "azure": {"type": "apiKey", "in": "header", "name": "api-key"},
}
"""Places of a key in a request, if the server has keys."""
_SECURITY: list[JSON] = [*({name: []} for name in _KEYS), {}]
_ALL_HEADERS = _HEADERS | _ERROR_HEADERS
_PATH_PARAMETERS = {
    "model": "Name of a model; slashes need not be escaped.",
    "digest": "`sha256:` and 64 hexadecimal digits.",
    "completion_id": "Id of a stored chat completion.",
    "response_id": "Id of a stored response.",
    "conversation_id": "Id of a conversation.",
    "item_id": "Id of an item.",
    "request_id": "Id of a request, as in the header `x-request-id`.",
    "edition": "Digest of all files of the page.",
    "file": "Path of a file of the page.",
}
_FORCED = {
    "name": "x-tandem-backend",
    "in": "header",
    "description": "Backend that must answer: `mlx` or `ollama`.",
    "schema": {"type": "string"},
}


class Operation(Struct, frozen=True, kw_only=True):
    """Description of a route, passed to its handler as `operation=`.

    Types are those for which msgspec can generate a schema.
    """

    summary: str
    answers: tuple[Any, ...]
    """Alternative types of the response body; empty if it has none."""
    asks: tuple[Any, ...] = ()
    """Alternative types of the request body; empty if the route takes no body."""
    query: type[Struct] | None = None
    """Fields of the query, besides those that are parameters of the handler."""
    may_be_empty: bool = False
    """True if the request body is optional."""
    events: tuple[Any, ...] = ()
    """Types of the events of a streamed response."""
    media_type: str = "text/event-stream"
    """Media type of a streamed response."""
    may_force: bool = False
    """True if the route reads the request header `x-tandem-backend`."""
    endings: tuple[str, ...] = ("",)
    """Parts of the path behind the route's last parameter: a path for each."""
    body_type: str = "application/json"
    """Media type of the request body."""
    other_types: tuple[str, ...] = ()
    """Media types of answers that are no JSON."""
    other_statuses: tuple[int, ...] = ()
    """Statuses of success beside that of the handler."""


class Document:
    """The encoded document, generated on the first request to keep the start fast."""

    def __init__(self, app: Litestar) -> None:
        self._app = app
        self._encoded: bytes | None = None

    def encoded(self) -> bytes:
        if self._encoded is None:
            self._encoded = msgspec.json.encode(to_document(self._app))
        return self._encoded


class _Route(Struct, frozen=True):
    path: str
    ending: str
    path_parameters: frozenset[str]
    method: str
    handler: HTTPRouteHandler
    operation: Operation


def to_document(app: Litestar) -> JSON:
    routes = list(_described_routes(app))
    schemas, components = _schemas(routes)
    paths: dict[str, JSON] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = _to_operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tandem", "version": version("tandem-proxy"), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": _SECURITY,
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": _KEYS,
            "responses": {"Error": _to_error(schemas)},
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in _ALL_HEADERS.items()
            },
        },
    }


def _described_routes(app: Litestar) -> Iterator[_Route]:
    """Yield the routes that have an `operation`; Litestar's OPTIONS handlers have none."""
    for route in (route for route in app.routes if isinstance(route, HTTPRoute)):
        names = frozenset(route.path_parameters)
        for handler in route.route_handlers:
            operation: Operation | None = handler.opt.get("operation")
            if operation is not None:
                (method,) = handler.http_methods
                for ending in operation.endings:
                    path = route.path_format + ending
                    yield _Route(path, ending, names, method.lower(), handler, operation)


def _schemas(routes: Iterable[_Route]) -> tuple[Mapping[Any, JSON], JSON]:
    """Return a reference to the schema of each type, and the schemas by name."""
    kinds: list[Any] = [ErrorBody]
    for route in routes:
        operation = route.operation
        kinds += [*operation.asks, *operation.answers, *operation.events]
        kinds += [kind for _, kind, _ in _query(route)]
    unique = list(dict.fromkeys(kinds))
    # msgspec prefixes the names of Structs with their modules where they collide.
    pointers, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    return dict(zip(unique, pointers, strict=True)), components


def _to_operation(route: _Route, schemas: Mapping[Any, JSON]) -> JSON:
    operation = route.operation
    statuses = (route.handler.status_code, *operation.other_statuses)
    document: JSON = {
        "operationId": route.handler.handler_name + route.ending.replace("/", "_"),
        "summary": operation.summary,
        "tags": [route.path.split("/")[1]],
        "responses": {
            **{str(status): _to_success(operation, schemas) for status in statuses},
            "4XX": {"$ref": "#/components/responses/Error"},
            "5XX": {"$ref": "#/components/responses/Error"},
        },
    }
    if route.handler.opt.get("access") == "public":
        document["security"] = []
    if parameters := list(_parameters(route, schemas)):
        document["parameters"] = parameters
    if operation.asks:
        document["requestBody"] = {
            "required": not operation.may_be_empty,
            "content": {operation.body_type: {"schema": _one_of(operation.asks, schemas)}},
        }
    return document


def _to_success(operation: Operation, schemas: Mapping[Any, JSON]) -> JSON:
    if not operation.answers and not operation.other_types:
        return {"description": "Done; the answer is empty.", "headers": _point_to(_HEADERS)}
    content: JSON = {kind: {} for kind in operation.other_types}
    if operation.answers:
        content["application/json"] = {"schema": _one_of(operation.answers, schemas)}
    description = "The complete answer."
    if operation.events:
        content[operation.media_type] = {"schema": _one_of(operation.events, schemas)}
        description = f"{description} {_STREAM[operation.media_type]}"
    return {"description": description, "headers": _point_to(_HEADERS), "content": content}


def _point_to(headers: Iterable[str]) -> JSON:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _one_of(kinds: tuple[Any, ...], schemas: Mapping[Any, JSON]) -> JSON:
    """Combine types by `anyOf`, as they need not have a discriminator field."""
    references = [schemas[kind] for kind in kinds]
    return references[0] if len(references) == 1 else {"anyOf": references}


def _parameters(route: _Route, schemas: Mapping[Any, JSON]) -> Iterator[JSON]:
    for name in sorted(route.path_parameters):
        text = _PATH_PARAMETERS.get(name, "")
        schema = {"type": "string"}
        yield {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
    for name, kind, required in _query(route):
        yield {"name": name, "in": "query", "required": required, "schema": schemas[kind]}
    if route.operation.may_force:
        yield _FORCED


def _query(route: _Route) -> Iterator[tuple[str, Any, bool]]:
    """Yield name, type and `required` of each query parameter.

    These are the handler's parameters that Litestar does not take from the path or the request.
    """
    others = {*route.path_parameters, "request"}
    for name, field in route.handler.parsed_fn_signature.parameters.items():
        if name not in others:
            yield name, field.annotation, not field.is_optional
    for each in fields(route.operation.query) if route.operation.query is not None else ():
        yield each.encode_name, each.type, False


def _to_error(schemas: Mapping[Any, JSON]) -> JSON:
    rows = [*BACKEND_ERRORS.values(), *(row for row, _ in HTTP_ERRORS.values())]
    errors = dict.fromkeys(
        f"{row.status} `{row.type}`" + (f" `{row.code}`" if row.code is not None else "")
        for row in (*rows, UNAUTHORIZED, *RATE_LIMITED.values(), INTERNAL, SHUTDOWN, GONE)
    )
    return {
        "description": "By status, `type` and `code`: " + "; ".join(sorted(errors)) + ".",
        "headers": _point_to(_ALL_HEADERS),
        "content": {"application/json": {"schema": schemas[ErrorBody]}},
    }
