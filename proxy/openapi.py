"""All routes of the server -> its OpenAPI 3.1 document.

Not Litestar's own: that one sees no bodies that are read raw, and tells of errors never sent here.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from msgspec import Struct

from proxy.errors import BACKEND_ERRORS, GONE, HTTP_ERRORS, INTERNAL, SHUTDOWN, ErrorBody, Row

JSON = dict[str, Any]

_ABOUT = (
    "OpenAI's API over MLX and Ollama, the hybrid API of both, and Ollama's chat. Request fields "
    "that nobody knows are named in `x-tandem-ignored`; what cannot be honoured is a 400."
)
_STREAM = {
    "text/event-stream": "With `stream`: server-sent events, each with one of these as its data.",
    "application/x-ndjson": "Streamed: a line for each of these; a failure is a line with `error`.",
}
_HEADERS = {
    "x-request-id": "Of this request, for a report.",
    "x-tandem-backend": "Which engine answered; `none` if none was asked.",
    "x-tandem-fallback-from": "Which engine failed before, and how.",
    "x-tandem-context": "Tokens that prompt and answer may have together.",
    "x-tandem-ignored": "Fields of the body that nobody knows.",
}
_ERROR_HEADERS = {
    "retry-after": "Seconds after which another try may go better.",
    "x-should-retry": "`false` where the same request will fail again.",
}
_ALL_HEADERS = _HEADERS | _ERROR_HEADERS
_FORCED = {
    "name": "x-tandem-backend",
    "in": "header",
    "description": "The engine that must answer: `mlx` or `ollama`.",
    "schema": {"type": "string"},
}


class Operation(Struct, frozen=True, kw_only=True):
    """Given to a route as `operation=`. Types are what msgspec has a schema for."""

    summary: str
    answers: tuple[Any, ...]
    """One of them is the whole answer."""
    asks: tuple[Any, ...] = ()
    """One of them is the body; none: there is no body."""
    may_be_empty: bool = False
    """The body may be left out."""
    events: tuple[Any, ...] = ()
    """What a streamed answer is made of."""
    media_type: str = "text/event-stream"
    """Of a streamed answer."""
    may_force: bool = False
    """It looks at the request's header `x-tandem-backend`."""


class Document:
    """Made when somebody first asks for it: a server that starts has better things to do."""

    def __init__(self) -> None:
        self._encoded: bytes | None = None

    def encoded(self, app: Litestar) -> bytes:
        if self._encoded is None:
            self._encoded = msgspec.json.encode(to_document(app))
        return self._encoded


class _Route(Struct, frozen=True):
    path: str
    path_parameters: frozenset[str]
    method: str
    handler: HTTPRouteHandler
    operation: Operation


def to_document(app: Litestar) -> JSON:
    routes = list(_described(app))
    schemas, components = _schemas(routes)
    paths: dict[str, JSON] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = _to_operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tandem", "version": version("tandem-proxy"), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {"Error": _to_error(schemas)},
            "headers": {name: _to_header(text) for name, text in _ALL_HEADERS.items()},
        },
    }


def _described(app: Litestar) -> Iterator[_Route]:
    """Litestar's own OPTIONS have nothing to tell."""
    for route in (route for route in app.routes if isinstance(route, HTTPRoute)):
        names = frozenset(route.path_parameters)
        for handler in route.route_handlers:
            operation: Operation | None = handler.opt.get("operation")
            if operation is not None:
                (method,) = handler.http_methods
                yield _Route(route.path_format, names, method.lower(), handler, operation)


def _schemas(routes: Iterable[_Route]) -> tuple[Mapping[Any, JSON], JSON]:
    """For each type what points to its schema, and the schemas by name."""
    kinds: list[Any] = [ErrorBody]
    for route in routes:
        operation = route.operation
        kinds += [*operation.asks, *operation.answers, *operation.events]
        kinds += [kind for _, kind, _ in _query(route)]
    unique = list(dict.fromkeys(kinds))
    # Two Structs of one name are told apart by their modules.
    pointers, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    return dict(zip(unique, pointers, strict=True)), components


def _to_operation(route: _Route, schemas: Mapping[Any, JSON]) -> JSON:
    operation = route.operation
    told: JSON = {
        "operationId": route.handler.handler_name,
        "summary": operation.summary,
        "tags": [route.path.split("/")[1]],
        "responses": {
            "200": _to_success(operation, schemas),
            "4XX": {"$ref": "#/components/responses/Error"},
            "5XX": {"$ref": "#/components/responses/Error"},
        },
    }
    if parameters := list(_parameters(route, schemas)):
        told["parameters"] = parameters
    if operation.asks:
        told["requestBody"] = {
            "required": not operation.may_be_empty,
            "content": {"application/json": {"schema": _one_of(operation.asks, schemas)}},
        }
    return told


def _to_success(operation: Operation, schemas: Mapping[Any, JSON]) -> JSON:
    content = {"application/json": {"schema": _one_of(operation.answers, schemas)}}
    said = "The whole answer."
    if operation.events:
        content[operation.media_type] = {"schema": _one_of(operation.events, schemas)}
        said = f"{said} {_STREAM[operation.media_type]}"
    return {"description": said, "headers": _point_to(_HEADERS), "content": content}


def _point_to(headers: Iterable[str]) -> JSON:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _one_of(kinds: tuple[Any, ...], schemas: Mapping[Any, JSON]) -> JSON:
    """`anyOf`, as no field of theirs has to tell them apart."""
    each = [schemas[kind] for kind in kinds]
    return each[0] if len(each) == 1 else {"anyOf": each}


def _parameters(route: _Route, schemas: Mapping[Any, JSON]) -> Iterator[JSON]:
    for name in sorted(route.path_parameters):
        text = "Any name of a model; slashes in it may stay as they are."
        schema = {"type": "string"}
        yield {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
    for name, kind, is_needed in _query(route):
        yield {"name": name, "in": "query", "required": is_needed, "schema": schemas[kind]}
    if route.operation.may_force:
        yield _FORCED


def _query(route: _Route) -> Iterator[tuple[str, Any, bool]]:
    """Name, type, and whether it has to be there: what is left once all else has been given."""
    given = {*route.path_parameters, "request"}
    for name, field in route.handler.parsed_fn_signature.parameters.items():
        if name not in given:
            yield name, field.annotation, not field.is_optional


def _to_error(schemas: Mapping[Any, JSON]) -> JSON:
    rows = [*BACKEND_ERRORS.values(), *(row for row, _ in HTTP_ERRORS.values())]
    told = dict.fromkeys(_in_words(row) for row in (*rows, INTERNAL, SHUTDOWN, GONE))
    return {
        "description": "By status, `type` and `code`: " + "; ".join(sorted(told)) + ".",
        "headers": _point_to(_ALL_HEADERS),
        "content": {"application/json": {"schema": schemas[ErrorBody]}},
    }


def _in_words(row: Row) -> str:
    return f"{row.status} `{row.type}`" + (f" `{row.code}`" if row.code is not None else "")


def _to_header(text: str) -> JSON:
    return {"description": text, "schema": {"type": "string"}}
