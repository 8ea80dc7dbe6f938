"""Ollama's API for the models on the disk: pull, delete, copy, create, and uploaded files.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from msgspec import UNSET, Raw, Struct, UnsetType, field

from adapters.backend import ModelBuilder, Progress
from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from proxy.endpoints.ollama.answer import OLLAMA_ERRORS, to_error
from proxy.endpoints.ollama.models import to_name
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import ClientDisconnectedError, Failure
from proxy.http.event_stream import NDJSON, EventSink, Put, json_line
from proxy.http.gates import API_TYPES
from proxy.http.json_response import JSONResponse
from proxy.models.auto_pull import to_source
from proxy.models.registry import DEFAULT_TAG, Registry
from proxy.openapi import Operation
from proxy.routing.router import Route

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_LISTING_SECONDS = 5.0
"""Time that a backend has to list its models after a change."""
_FILE_TYPES = API_TYPES | {"application/octet-stream"}
"""Ollama's own client uploads files as JSON."""
_SUCCESS = "success"


class _Empty(ASGIResponse):
    """A response without a body, and so without its type."""

    def __init__(self, status: int = 200) -> None:
        self.status_code = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class PullRequest(Struct, kw_only=True):
    model: str = ""
    name: str = ""
    """The older name of `model`."""
    stream: bool | None = None
    """True by default."""
    insecure: bool | None = None
    """Refused if true: registries are reached by https only."""


class DeleteRequest(Struct, kw_only=True):
    model: str = ""
    name: str = ""
    """The older name of `model`."""


class CopyRequest(Struct):
    source: str
    destination: str


class CreateRequest(Struct, kw_only=True):
    """Passed on to Ollama with all of its fields; these are read here."""

    model: str = ""
    name: str = ""
    """The older name of `model`."""
    stream: bool | None = None
    """True by default."""
    base: str | None = field(default=None, name="from")
    """A model that it is made from."""


class Step(Struct, kw_only=True):
    """A line of progress; the last has the status `success`."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    """Bytes, as `completed`."""
    completed: int | UnsetType = UNSET


_PULL = Operation(
    summary="Download a model, for Ollama's clients",
    asks=(PullRequest,),
    answers=(Step,),
    events=(Step,),
    media_type=NDJSON.media_type,
)
_CREATE = Operation(
    summary="Make a model by Ollama",
    asks=(CreateRequest,),
    answers=(Step,),
    events=(Step,),
    media_type=NDJSON.media_type,
)
_DELETE = Operation(summary="Delete a model", asks=(DeleteRequest,), answers=())
_COPY = Operation(summary="Copy a model of Ollama", asks=(CopyRequest,), answers=())
_CHECK = Operation(summary="Tell whether a file was uploaded to Ollama", answers=())
_UPLOAD = Operation(
    summary="Upload a file to Ollama, from which a model is made", answers=(), other_statuses=(200,)
)


@post("/api/pull", status_code=200, operation=_PULL, access="admin", errors=OLLAMA_ERRORS)
async def pull_model(request: ServerRequest) -> ASGIResponse:
    body = await request.read(PullRequest)
    if body.insecure:
        raise UnsupportedParameterError(
            "'insecure' is not supported: models are downloaded by https only.", param="insecure"
        )
    name = to_name(body.model, body.name)
    namings = {b: listed.backend.naming for b, listed in request.registry.backends.items()}
    source = to_source(name, namings)
    if source is None:
        raise InvalidRequestError(f"{name[:200]!r} is not the name of a model.", param="model")
    backend, model = source
    request.record.model = name
    request.record.attempt(backend, model)
    steps = request.registry.backends[backend].backend.pull(model)
    return await _answer_steps(request, steps, backend, body.stream is not False)


@delete("/api/delete", status_code=200, operation=_DELETE, access="admin", errors=OLLAMA_ERRORS)
async def delete_model(request: ServerRequest) -> ASGIResponse:
    """Delete a model on every backend that has it by exactly this name, or by this short name."""
    body = await request.read(DeleteRequest)
    name = to_name(body.model, body.name)
    routes = await request.router.routes(request.forced(name))
    for route in _called(name, routes, request.registry):
        request.record.attempt(route.backend_name, route.name)
        await request.finish(route.backend.delete(route.name))
        await request.registry.backends[route.backend_name].refresh(_LISTING_SECONDS)
    return _Empty()


def _called(name: str, routes: list[Route], registry: Registry) -> list[Route]:
    """Return those of `routes`, a model's, on which `name` is the model's own name.

    Raises:
        InvalidRequestError: it is an alias, or the name on another backend, so that the request
            does not say which files are to go.
    """
    wanted = name.removeprefix(f"{routes[0].backend_name}/")
    exact = [
        route
        for route in routes
        if route.backend.naming.bare(wanted) == route.backend.naming.bare(route.name)
    ]
    folded = wanted.removesuffix(DEFAULT_TAG).lower()
    short = [
        route
        for route in routes
        if folded in map(str.lower, registry.short_names(route.name, route.backend_name))
    ]
    if called := exact or short:
        return called
    own = " and ".join(f"'{route.backend_name}/{route.name}'" for route in routes)
    raise InvalidRequestError(
        f"{name!r} is another name of {own}. A model is deleted by its own name only.",
        param="model",
    )


@post("/api/copy", status_code=200, operation=_COPY, access="admin", errors=OLLAMA_ERRORS)
async def copy_model(request: ServerRequest) -> ASGIResponse:
    body = await request.read(CopyRequest)
    entry = await request.router.find(request.forced(body.source))
    for deployment in entry.deployments:
        listed = request.registry.backends[deployment.backend]
        if isinstance(listed.backend, ModelBuilder):
            request.record.attempt(deployment.backend, deployment.name)
            await request.finish(listed.backend.copy(deployment.name, body.destination))
            await listed.refresh(_LISTING_SECONDS)
            return _Empty()
    raise InvalidRequestError(
        f"'{body.source}' is not a model of Ollama, and only those can be copied. An alias in "
        "config.yaml gives any model a second name.",
        param="source",
    )


@post("/api/create", status_code=200, operation=_CREATE, access="admin", errors=OLLAMA_ERRORS)
async def create_model(request: ServerRequest) -> ASGIResponse:
    raw = await request.read_body()
    head = await request.parse(raw, lambda raw: request.decode(raw, CreateRequest))
    body = msgspec.json.decode(raw, type=dict[str, Raw])
    request.record.unknown = ()  # Passed on, not ignored.
    backend, builder = _builder(request)
    model = request.record.model = to_name(head.model, head.name)
    request.record.attempt(backend, model)
    if head.base:
        base = await _base(request, backend, head.base)
        body["from"] = Raw(msgspec.json.encode(base))
    recipe = msgspec.json.encode({**body, "stream": True})
    steps = builder.create(recipe)
    return await _answer_steps(request, steps, backend, head.stream is not False)


async def _base(request: ServerRequest, backend: str, name: str) -> str:
    """Translate a name of a model that `backend` has to its own; others are left to it.

    Raises:
        InvalidRequestError: only other backends have the model.
    """
    try:
        entry = await request.router.find(name)
    except BackendError:  # A folder on its machine, or a model that it downloads.
        return name
    for deployment in entry.deployments:
        if deployment.backend == backend:
            return deployment.name
    raise InvalidRequestError(
        f"'{name}' is not a model of Ollama, and only from those a model can be made.",
        param="from",
    )


@get(
    "/api/blobs/{digest:str}",
    status_code=200,
    operation=_CHECK,
    access="admin",
    errors=OLLAMA_ERRORS,
)
async def check_blob(digest: FromPath[str], request: ServerRequest) -> ASGIResponse:
    """Tell whether a file was uploaded; Ollama's clients ask with HEAD."""
    _, builder = _builder(request)
    if not await request.finish(builder.has_file(_to_digest(digest))):
        raise ModelNotFoundError("There is no such file.")
    return _Empty()


@post(
    "/api/blobs/{digest:str}",
    status_code=201,
    operation=_UPLOAD,
    access="admin",
    content_types=_FILE_TYPES,
    errors=OLLAMA_ERRORS,
)
async def upload_blob(digest: FromPath[str], request: ServerRequest) -> ASGIResponse:
    """Upload a file; one that Ollama has already is not uploaded again, and the status is 200."""
    _, builder = _builder(request)
    is_new = await request.finish(builder.upload(_to_digest(digest), _pieces(request)))
    return _Empty(201 if is_new else 200)


async def _pieces(request: ServerRequest) -> AsyncIterator[bytes]:
    """Yield the body as it arrives: a file of weights is larger than any limit for JSON."""
    while (message := await request.receive())["type"] == "http.request":
        if message["body"]:
            yield message["body"]
        if not message.get("more_body", False):
            return
    raise ClientDisconnectedError


def _to_digest(text: str) -> str:
    """Return `sha256:…`; it becomes part of a URL.

    Raises:
        InvalidRequestError: it is no digest.
    """
    digits = _DIGEST.fullmatch(text)
    if digits is None:
        raise InvalidRequestError("A digest is 'sha256:' and 64 hexadecimal digits.")
    return f"sha256:{digits[1]}"


def _builder(request: ServerRequest) -> tuple[str, ModelBuilder]:
    """Return the first backend that makes models, with its name.

    Raises:
        BackendUnavailableError: there is none.
    """
    for name, listed in request.registry.backends.items():
        if isinstance(listed.backend, ModelBuilder):
            return name, listed.backend
    raise BackendUnavailableError(
        "No backend makes models: the ollama backend is switched off.", lasting=True
    )


async def _answer_steps(
    request: ServerRequest, steps: AsyncGenerator[Progress], backend: str, streams: bool
) -> ASGIResponse:
    """Answer with a line for each step, or with the last one alone."""
    listed = request.registry.backends[backend]

    async def write(put: Callable[[Progress], object]) -> None:
        async with aclosing(steps):
            async for step in steps:
                if step.status == _SUCCESS:
                    await listed.refresh(_LISTING_SECONDS)
                put(step)

    if not streams:
        await request.finish(write(bool))
        return JSONResponse(Step(status=_SUCCESS))

    async def write_lines(sink: EventSink[Progress]) -> None:
        await write(sink.write)

    return await request.begin_stream(write_lines, _StepRenderer, framing=NDJSON)


class _StepRenderer:
    """Encodes a line for each step."""

    def __init__(self, put: Put) -> None:
        self._put = put

    def write(self, event: Progress, /) -> bool:
        step = Step(status=event.status, digest=event.digest)
        if event.total is not None:
            step.total, step.completed = event.total, event.completed or 0
        return self._put(json_line(msgspec.json.encode(step)))

    def error(self, failure: Failure, /) -> bytes:
        return json_line(msgspec.json.encode(to_error(failure)))
