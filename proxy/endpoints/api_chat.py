"""`POST /api/chat`, which two dialects share: Ollama's chat, and a prompt of the hybrid API."""

from functools import partial
from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from proxy.endpoints.generate import Call, generating_route
from proxy.endpoints.ollama.answer import ChatMessage, OllamaAnswer
from proxy.endpoints.ollama.chat.dialect import OllamaChatDialect
from proxy.endpoints.ollama.chat.request import OllamaChatRequest
from proxy.endpoints.ollama.loading import load_or_unload
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.tandem.prompt import PROMPT, PromptAnswer, PromptRequest
from proxy.http.body import decode
from proxy.http.event_stream import NDJSON
from proxy.http.json_response import ErrorDialect
from proxy.openapi import Operation

_NO_MESSAGE = {"message": ChatMessage()}


class _Head(Struct):
    """The fields that tell a chat from a prompt."""

    model_id: Raw | UnsetType = UNSET
    prompt: Raw | UnsetType = UNSET
    messages: Raw | UnsetType = UNSET

    @property
    def is_prompt(self) -> bool:
        """False for `prompt` beside `messages`: Ollama ignores an unknown field of a chat."""
        has_prompt = self.prompt is not UNSET and self.messages is UNSET
        return has_prompt or self.model_id is not UNSET


class ChatOrPromptDialect(OllamaChatDialect):
    """Ollama's chat, unless the body has `model_id`, or `prompt` without `messages`."""

    def parse(self, request: ServerRequest, raw: bytes) -> Call[Any]:
        if decode(raw, _Head).is_prompt:
            request.answer_errors_with(ErrorDialect(PROMPT.failure))
            return replace(PROMPT.parse(request, raw), dialect=PROMPT)
        call = super().parse(request, raw)
        if call.body.messages:
            return call
        return replace(call, respond=partial(load_or_unload, call.body, _NO_MESSAGE))


create_chat = generating_route(
    "/api/chat",
    ChatOrPromptDialect(),
    Operation(
        summary="A prompt to a model, or Ollama's chat",
        asks=(PromptRequest, OllamaChatRequest),
        answers=(PromptAnswer, OllamaAnswer),
        events=(PromptAnswer, OllamaAnswer),
        media_type=NDJSON.media_type,
        may_force=True,
    ),
    name="create_chat",
)
