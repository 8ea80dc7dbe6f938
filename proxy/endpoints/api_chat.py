"""`POST /api/chat`, which two dialects share: Ollama's chat, and a prompt of the hybrid API."""

from functools import partial
from typing import Any

from litestar.response.base import ASGIResponse
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from adapters.errors import UnsupportedParameterError
from proxy.endpoints.generate import Call, generating_route
from proxy.endpoints.model_loading import load, unload
from proxy.endpoints.ollama.chat.dialect import OllamaChatDialect
from proxy.endpoints.ollama.chat.request import OllamaChatRequest
from proxy.endpoints.ollama.chat.response import OllamaChat, without_answer
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.prompt import PROMPT, PromptAnswer, PromptRequest
from proxy.http.body import decode
from proxy.http.event_stream import NDJSON
from proxy.http.json_response import ErrorDialect, JSONResponse
from proxy.keep_alive import to_keep_alive
from proxy.openapi import Operation


class _Head(Struct):
    """The fields that only a prompt has."""

    model_id: Raw | UnsetType = UNSET
    prompt: Raw | UnsetType = UNSET


class ChatOrPromptDialect(OllamaChatDialect):
    """Ollama's chat, unless the body has `model_id` or `prompt`."""

    def parse(self, request: ServerRequest, raw: bytes) -> Call[Any]:
        head = decode(raw, _Head)
        if head.model_id is not UNSET or head.prompt is not UNSET:
            request.answer_errors_with(ErrorDialect(PROMPT.failure))
            return replace(PROMPT.parse(request, raw), dialect=PROMPT)
        call = super().parse(request, raw)
        if call.body.messages:
            return call
        return replace(call, respond=partial(_load_or_unload, call.body))


async def _load_or_unload(body: OllamaChatRequest, request: ServerRequest) -> ASGIResponse:
    """Answer a chat without messages with one object, streamed or not, as Ollama does."""
    if body.options:
        raise UnsupportedParameterError(
            "'options' have no effect in a chat without messages.", param="options"
        )
    model = request.forced(body.model, body.backend)
    keep_alive = to_keep_alive(body.keep_alive, None)
    if keep_alive == 0:
        await unload(request, model)
        return JSONResponse(without_answer(body.model, "unload"))
    await load(request, model, keep_alive)
    return JSONResponse(without_answer(body.model, "load"))


create_chat = generating_route(
    "/api/chat",
    ChatOrPromptDialect(),
    Operation(
        summary="A prompt to a model, or Ollama's chat",
        asks=(PromptRequest, OllamaChatRequest),
        answers=(PromptAnswer, OllamaChat),
        events=(PromptAnswer, OllamaChat),
        media_type=NDJSON.media_type,
        may_force=True,
    ),
    name="create_chat",
)
