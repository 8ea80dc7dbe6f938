"""`POST /api/chat`, which two dialects share: Ollama's chat, and a prompt of the hybrid API."""

from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import UNSET, Raw, Struct, UnsetType

from adapters.errors import UnsupportedParameterError
from proxy.endpoints.generate import answer
from proxy.endpoints.model_loading import load, unload
from proxy.endpoints.ollama.chat.dialect import OLLAMA_CHAT
from proxy.endpoints.ollama.chat.request import OllamaChatRequest
from proxy.endpoints.ollama.chat.response import OllamaChat, without_answer
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.prompt import PROMPT, PromptAnswer, PromptRequest
from proxy.http.body import decode
from proxy.http.event_stream import NDJSON
from proxy.http.json_response import JSONResponse
from proxy.keep_alive import to_keep_alive
from proxy.openapi import Operation


class _Head(Struct):
    """The fields that tell the two bodies apart: only a prompt has either."""

    model_id: Raw | UnsetType = UNSET
    prompt: Raw | UnsetType = UNSET


_CHAT = Operation(
    summary="A prompt to a model, or Ollama's chat",
    asks=(PromptRequest, OllamaChatRequest),
    answers=(PromptAnswer, OllamaChat),
    events=(PromptAnswer, OllamaChat),
    media_type=NDJSON.media_type,
    may_force=True,
)


@post("/api/chat", status_code=200, operation=_CHAT, failure_body=OLLAMA_CHAT.failure, fast=True)
async def create_chat(request: ServerRequest) -> ASGIResponse:
    raw = await request.read_body()
    head = decode(raw, _Head)
    if head.model_id is not UNSET or head.prompt is not UNSET:
        request.answer_errors_with(PROMPT.failure)
        return await answer(request, PROMPT, PROMPT.parse(request, raw))
    call = OLLAMA_CHAT.parse(request, raw)
    if not call.body.messages:
        return await _load_or_unload(request, call.body)
    return await answer(request, OLLAMA_CHAT, call)


async def _load_or_unload(request: ServerRequest, body: OllamaChatRequest) -> ASGIResponse:
    """Answer a chat without messages: with one object, streamed or not, as Ollama does."""
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
