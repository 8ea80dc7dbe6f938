"""`POST /api/chat`: the original's `{"model_id", "prompt"}`, and Ollama's own chat alike."""

from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from adapters.errors import UnsupportedParameterError
from proxy.endpoints.generate import generate
from proxy.endpoints.ollama.chat import request as ollama_request
from proxy.endpoints.ollama.chat.request import OllamaChatRequest
from proxy.endpoints.ollama.chat.response import OllamaChat, OllamaDialect
from proxy.endpoints.residence import load, unload
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.prompt import PromptAnswer, PromptRequest, answer_prompt
from proxy.endpoints.times import Times
from proxy.http.body import decode, receive, understand
from proxy.http.event_stream import NDJSON
from proxy.http.json_response import JSONResponse
from proxy.keep_alive import to_keep_alive
from proxy.openapi import Operation


class _Head(Struct):
    """What tells the two bodies apart: only the original's has either."""

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


@post("/api/chat", status_code=200, operation=_CHAT, fast=True)
async def create_chat(request: ServerRequest) -> ASGIResponse:
    times = Times()
    raw = await receive(request)
    head = decode(raw, _Head)
    if head.model_id is UNSET and head.prompt is UNSET:
        body = understand(request, raw, OllamaChatRequest)
        return await _answer_ollama(request, body, times)
    return await answer_prompt(request, understand(request, raw, PromptRequest), times)


async def _answer_ollama(
    request: ServerRequest, body: OllamaChatRequest, times: Times
) -> ASGIResponse:
    dialect = OllamaDialect(body, times)
    model = request.forced(body.model, body.backend)
    if not body.messages:
        return await _load_or_unload(request, body, model, dialect)
    asked = replace(ollama_request.to_generation_request(body), model=model)
    streamed = body.stream is not False
    return await generate(request, asked, dialect, times, streamed=streamed)


async def _load_or_unload(
    request: ServerRequest, body: OllamaChatRequest, model: str, dialect: OllamaDialect
) -> ASGIResponse:
    """Streamed or not, Ollama answers with one object."""
    if body.options:
        raise UnsupportedParameterError(
            "Without messages there is nothing that 'options' could shape.", param="options"
        )
    keep_alive = to_keep_alive(body.keep_alive, None)
    if keep_alive == 0:
        await unload(request, model)
        return JSONResponse(dialect.without_words("unload"))
    await load(request, model, keep_alive)
    return JSONResponse(dialect.without_words("load"))
