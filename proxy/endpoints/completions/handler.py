"""The URL itself."""

from typing import Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from msgspec.structs import replace

from adapters.errors import BackendError
from proxy.answers import collect
from proxy.config import Config
from proxy.endpoints.completions.request import (
    CompletionRequest,
    to_generation_requests,
    to_param,
)
from proxy.endpoints.completions.response import Completion, CompletionRenderer, to_completion
from proxy.http.body import read_body
from proxy.http.clients import to_client
from proxy.http.headers import AnswerNotes
from proxy.http.streaming import Drain, stream, unless_gone
from proxy.merging import merge
from proxy.operation import Operation
from proxy.registry import Registry
from proxy.routing.forcing import to_forced
from proxy.routing.router import Router

_COMPLETE = Operation(
    summary="OpenAI's completions of raw text",
    asks=(CompletionRequest,),
    answers=(Completion,),
    events=(Completion,),
    may_force=True,
)


@post("/v1/completions", status_code=200, operation=_COMPLETE)
async def create_completion(
    request: Request[Any, Any, Any],
    config: NamedDependency[Config],
    registry: NamedDependency[Registry],
    router: NamedDependency[Router],
    drain: NamedDependency[Drain],
    notes: NamedDependency[AnswerNotes],
) -> Response[Any]:
    body = await read_body(request, CompletionRequest, config.server)
    client = to_client(request.headers)
    model = to_forced(body.model, request.headers, body.backend, registry.shelves)
    asked = [replace(each, model=model, client=client) for each in to_generation_requests(body)]
    streams = [router.generate(each, notes, whole=not body.stream) for each in asked]
    events = merge(streams, body.n or 1)
    try:
        if body.stream:
            renderer = CompletionRenderer(body, len(asked))
            return await stream(request, events, renderer, drain, config.server.keepalive)
        answers = await unless_gone(request, drain.limit(collect(events)))
    except BackendError as exc:
        exc.param = to_param(exc.param, body)
        raise
    return Response[Completion](to_completion(body, answers))
