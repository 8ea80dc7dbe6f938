"""The URL itself."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.request import GenerationRequest
from proxy.answers import collect
from proxy.config import Config
from proxy.endpoints.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.chat_completions.response import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRenderer,
    to_chat_completion,
)
from proxy.endpoints.chat_completions.translate import to_generation_request, to_param
from proxy.http.body import read_body
from proxy.http.clients import to_client
from proxy.http.headers import AnswerNotes
from proxy.http.streaming import Drain, stream, unless_gone
from proxy.images import has_images, settle_images
from proxy.operation import Operation
from proxy.registry import Registry
from proxy.routing.forcing import to_forced
from proxy.routing.router import Router

_COMPLETE = Operation(
    summary="OpenAI's chat completions",
    asks=(ChatCompletionRequest,),
    answers=(ChatCompletion,),
    events=(ChatCompletionChunk,),
    may_force=True,
)


@post("/v1/chat/completions", status_code=200, operation=_COMPLETE)
async def create_chat_completion(
    request: Request[Any, Any, Any],
    config: NamedDependency[Config],
    registry: NamedDependency[Registry],
    router: NamedDependency[Router],
    drain: NamedDependency[Drain],
    notes: NamedDependency[AnswerNotes],
) -> Response[Any]:
    body, asked = await read_chat(request, config, registry, drain)
    keepalive = config.server.keepalive
    with blaming(body):
        events = router.generate(asked, notes, whole=not body.stream)
        if body.stream:
            return await stream(request, events, ChatCompletionRenderer(body), drain, keepalive)
        answers = await unless_gone(request, drain.limit(collect(events)))
    return Response(to_chat_completion(body, answers))


async def read_chat(
    request: Request[Any, Any, Any], config: Config, registry: Registry, drain: Drain
) -> tuple[ChatCompletionRequest, GenerationRequest]:
    """The body, and what it asks for: the public name of a model, and images that were checked.

    Raises:
        InvalidRequestError: it cannot be read, or contradicts itself.
    """
    body = await read_body(request, ChatCompletionRequest, config.server)
    asked = replace(
        to_generation_request(body),
        model=to_forced(body.model, request.headers, body.backend, registry.shelves),
        client=to_client(request.headers, body.prompt_cache_key),
    )
    if not has_images(asked):
        return body, asked
    with blaming(body):
        settling = settle_images(asked, config.server.images)
        return body, await unless_gone(request, drain.limit(settling))


@contextmanager
def blaming(body: ChatCompletionRequest) -> Generator[None]:
    """Errors name the field of `body` that is to blame."""
    try:
        yield
    except BackendError as exc:
        exc.param = to_param(exc.param, body)
        raise
