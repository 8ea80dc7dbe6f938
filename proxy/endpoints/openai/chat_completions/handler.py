"""The URL itself."""

from litestar import post
from litestar.response.base import ASGIResponse
from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.request import GenerationRequest
from adapters.shortcut import Shortcut
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.openai.chat_completions.response import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRenderer,
    to_chat_completion,
)
from proxy.endpoints.openai.chat_completions.translate import to_generation_request, to_param
from proxy.endpoints.server_request import ServerRequest
from proxy.http.body import read_body
from proxy.http.json_response import JSONResponse
from proxy.images import has_images, resolve_images
from proxy.openapi import Operation
from proxy.sinks import collect

_COMPLETE = Operation(
    summary="OpenAI's chat completions",
    asks=(ChatCompletionRequest,),
    answers=(ChatCompletion,),
    events=(ChatCompletionChunk,),
    may_force=True,
)


@post("/v1/chat/completions", status_code=200, operation=_COMPLETE, fast=True)
async def create_chat_completion(request: ServerRequest) -> ASGIResponse:
    body, asked = await read_chat(request)
    with blaming(body):
        short = Shortcut()
        events = request.router.generate(
            asked, request.notes, whole=not body.stream, shortcut=short
        )
        if body.stream:
            renderer = ChatCompletionRenderer(body)
            texts = renderer.texts(short)
            return await request.stream_events(events, renderer, texts=texts)
        answers = await request.finish(collect(events, short))
    return JSONResponse(to_chat_completion(body, answers))


async def read_chat(request: ServerRequest) -> tuple[ChatCompletionRequest, GenerationRequest]:
    """The body, and what it asks for: the public name of a model, and images that were checked.

    Raises:
        InvalidRequestError: it cannot be read, or contradicts itself.
    """
    body = await read_body(request, ChatCompletionRequest)
    asked = replace(
        to_generation_request(body),
        model=request.forced(body.model, body.backend),
        client=request.caller(body.prompt_cache_key),
    )
    if not has_images(asked):
        return body, asked
    with blaming(body):
        return body, await request.finish(resolve_images(asked, request.config.server.images))


class blaming:
    """Errors name the field of `body` that is to blame."""

    def __init__(self, body: ChatCompletionRequest) -> None:
        self._body = body

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, exc: BaseException | None, _trace: object) -> None:
        if isinstance(exc, BackendError):
            exc.param = to_param(exc.param, self._body)
