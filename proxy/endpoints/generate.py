"""The handler of every generating URL: parse, route, and render in the dialect of the route."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from msgspec import Struct
from msgspec.structs import replace

from adapters.backend import TokenCount
from adapters.errors import BackendError, ContextLengthError
from adapters.events import Event
from adapters.request import GenerationRequest
from adapters.sink import Sink, write_together
from proxy.access.metering import metered
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import Failure
from proxy.http.event_stream import Framing, Put, Renderer
from proxy.http.json_response import ErrorDialect, JSONResponse
from proxy.images import has_images, resolve_images
from proxy.openapi import Operation
from proxy.record import ModelOperation, Record
from proxy.sinks import Answer, Collector, HeldEnd

_PROMPTS_AT_ONCE = 8
"""Prompts of one request that run at the same time, so that other requests get their turn."""

B = TypeVar("B")


class Call(Struct, Generic[B], frozen=True, kw_only=True):
    """A parsed request of a client."""

    body: B
    """The wire Struct as the client sent it."""
    requests: Sequence[GenerationRequest]
    """One for each prompt; the model is the public name."""
    stream: bool
    backend: str | None = None
    """The backend that the body requires."""
    cache_key: str | None = None
    """Keeps the prefix cache of one conversation apart from others with the same API key."""
    dialect: "Dialect[B] | None" = None
    """The dialect of the answer if the URL serves several; by default the URL's own."""
    keep: Callable[[Any], Awaitable[None]] | None = None
    """Stores the answer as `Dialect.whole` renders it, before the client gets its end."""
    finish: Callable[[], Awaitable[None]] | None = None
    """Awaited after all events: the end of the answer may wait there until it was stored."""
    shorten: Callable[[GenerationRequest, ContextLengthError], GenerationRequest | None] | None = (
        None
    )
    """Makes a shorter request of one that is too long; `None` if there is none."""
    respond: Callable[[ServerRequest], Awaitable[ASGIResponse]] | None = None
    """Answers a request that generates nothing, such as one that only loads a model."""


class Dialect(Protocol[B]):
    """An API that clients speak: from its JSON to the contract and back. Stateless."""

    framing: Framing
    """The framing of streamed answers."""
    operation: ModelOperation

    def parse(self, request: ServerRequest, raw: bytes) -> Call[B]:
        """Decode and translate a body.

        Raises:
            InvalidRequestError: it is malformed, or its fields conflict.
            UnsupportedParameterError: no backend can honour a field; `param` is its path.
        """
        ...

    def renderer(self, call: Call[B], record: Record, put: Put) -> Renderer[Event]:
        """Create what encodes the events of one streamed answer, and sends them by `put`."""
        ...

    def whole(self, call: Call[B], answers: Sequence[Answer], record: Record) -> Struct:
        """Translate an answer that is sent in one piece."""
        ...

    def to_param(self, feature: str | None, body: B) -> str | None:
        """Translate a field of the contract to the name of the field that the client sent."""
        ...

    def failure(self, failure: Failure) -> Struct:
        """Render the body of an error."""
        ...


def generating_route(
    path: str,
    dialect: Dialect[B],
    operation: Operation,
    *,
    name: str,
    errors: ErrorDialect | None = None,
) -> HTTPRouteHandler:
    """Create the route of a URL that always speaks `dialect`; `name` is its operation's id.

    `errors`: for a dialect that differs in more than the bodies of errors.
    """

    async def create(request: ServerRequest) -> ASGIResponse:
        return await answer(request, dialect)

    create.__name__ = create.__qualname__ = name
    route = post(
        path,
        status_code=200,
        operation=operation,
        errors=errors or ErrorDialect(dialect.failure),
        fast=partial(answer, dialect=dialect),
    )
    return route(create)


async def answer(
    request: ServerRequest, dialect: Dialect[B], call: Call[B] | None = None
) -> ASGIResponse:
    """Answer in `dialect`, streamed or whole; `call` is what was parsed already.

    Raises:
        BackendError: as `Router.generate`; `param` is the client's field.
    """
    request.record.operation = dialect.operation
    if call is None:
        call = await request.parse(await request.read_body(), partial(dialect.parse, request))
    if call.respond is not None:
        return await call.respond(request)
    dialect = call.dialect or dialect
    write = partial(generate, request, dialect, call)
    if call.stream:
        request.record.streamed = True
        if call.keep is not None:
            write = partial(_generate_and_keep, request, dialect, call, call.keep)
        return await request.begin_stream(
            write,
            partial(dialect.renderer, call, request.record),
            framing=dialect.framing,
            settle=call.finish,
        )
    collector = Collector()
    await request.finish(write(collector), request.record.has_begun)
    body = dialect.whole(call, collector.answers(), request.record)
    if call.keep is not None:
        await call.keep(body)
    if call.finish is not None:
        await call.finish()
    return JSONResponse(body)


async def _generate_and_keep(
    request: ServerRequest,
    dialect: Dialect[B],
    call: Call[B],
    keep: Callable[[Any], Awaitable[None]],
    sink: Sink,
) -> None:
    held = HeldEnd(sink)
    await generate(request, dialect, call, held)
    await keep(dialect.whole(call, held.answers(), request.record))
    held.release()


async def generate(
    request: ServerRequest,
    dialect: Dialect[B],
    call: Call[B],
    sink: Sink,
    *,
    is_counted: bool = False,
) -> None:
    """Write the events of the answer to `call`; errors as in `answer`.

    `is_counted`: the key's limit of concurrent answers counts it already.

    Raises:
        RateLimitError: a limit of the request's key is reached.
    """
    request.record.to_param = partial(dialect.to_param, body=call.body)
    sink = request.inspector.watched(request.record.request_id, sink)
    try:
        requests = await to_routed(request, call)
        limits, record = request.grant.limits, request.record
        with metered(limits, sink, requests, record, is_counted=is_counted) as sink:
            if len(requests) > 1:
                generate = request.router.generate
                writers = [partial(generate, one, record=record) for one in requests]
                await write_together(writers, sink, choices=requests[0].n, at_once=_PROMPTS_AT_ONCE)
                return
            prompt, is_written = requests[0], False
            while not is_written:
                try:
                    await request.router.generate(prompt, sink, record)
                    is_written = True
                except ContextLengthError as exc:  # before the first event
                    prompt = _shorten(request, call, prompt, exc)
            if call.finish is not None:
                await call.finish()
    except BackendError as exc:
        exc.param = dialect.to_param(exc.param, call.body)
        raise


async def count(
    request: ServerRequest, call: Call[B], to_param: Callable[[str | None, B], str | None]
) -> TokenCount:
    """Count the tokens of the only prompt of `call`, as for its answer.

    Raises:
        BackendError: as an answer, or its tokens cannot be counted; `param` is the client's, by
            `to_param`.
    """
    try:
        (prompt,) = await request.finish(to_routed(request, call))
        return await request.finish(request.router.count_tokens(prompt, request.record))
    except BackendError as exc:
        exc.param = to_param(exc.param, call.body)
        raise


def _shorten(
    request: ServerRequest, call: Call[B], prompt: GenerationRequest, exc: ContextLengthError
) -> GenerationRequest:
    """Return a shorter prompt in place of one that failed with `exc`; raise that without one."""
    shorter = call.shorten(prompt, exc) if call.shorten is not None else None
    if shorter is None:
        raise exc
    request.record.attempts[-1].error = exc
    return shorter


async def to_routed(request: ServerRequest, call: Call[B]) -> list[GenerationRequest]:
    """Complete the requests of `call` for the router: forced backend, client, checked images.

    Raises:
        InvalidRequestError: the request requires two backends, or an image is refused.
        ExplainedHTTPError: 403: it unloads the model, and may not administer.
    """
    request.check_keep_alive(call.requests[0].keep_alive)
    model = request.forced(call.requests[0].model, call.backend)
    client = request.caller(call.cache_key)
    requests = [
        replace(prompt, model=model, client=client, whole=not call.stream)
        for prompt in call.requests
    ]
    images = request.config.server.images
    return [
        await resolve_images(prompt, images, request.fetch_image) if has_images(prompt) else prompt
        for prompt in requests
    ]
