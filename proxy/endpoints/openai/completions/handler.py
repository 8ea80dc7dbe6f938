"""The URL itself."""

from litestar import post
from litestar.response.base import ASGIResponse
from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.shortcut import Shortcut
from proxy.endpoints.openai.completions.request import (
    CompletionRequest,
    to_generation_requests,
    to_param,
)
from proxy.endpoints.openai.completions.response import (
    Completion,
    CompletionRenderer,
    to_completion,
)
from proxy.endpoints.server_request import ServerRequest
from proxy.http.body import read_body
from proxy.http.json_response import JSONResponse
from proxy.merging import merge
from proxy.openapi import Operation
from proxy.sinks import collect

_COMPLETE = Operation(
    summary="OpenAI's completions of raw text",
    asks=(CompletionRequest,),
    answers=(Completion,),
    events=(Completion,),
    may_force=True,
)


@post("/v1/completions", status_code=200, operation=_COMPLETE, fast=True)
async def create_completion(request: ServerRequest) -> ASGIResponse:
    body = await read_body(request, CompletionRequest)
    model, client = request.forced(body.model, body.backend), request.caller()
    asked = [replace(each, model=model, client=client) for each in to_generation_requests(body)]
    whole = not body.stream
    # Of several prompts nobody could tell the texts apart.
    short = Shortcut() if len(asked) == 1 else None
    streams = [
        request.router.generate(each, request.notes, whole=whole, shortcut=short) for each in asked
    ]
    events = merge(streams, body.n or 1)
    try:
        if body.stream:
            renderer = CompletionRenderer(body, len(asked))
            texts = renderer.texts(short) if short is not None else None
            return await request.stream_events(events, renderer, texts=texts)
        answers = await request.finish(collect(events, short))
    except BackendError as exc:
        exc.param = to_param(exc.param, body)
        raise
    return JSONResponse(to_completion(body, answers))
