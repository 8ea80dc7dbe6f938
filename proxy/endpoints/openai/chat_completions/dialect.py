"""`POST /v1/chat/completions`.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Sequence

from msgspec import Struct

from proxy.endpoints.generate import Call, generating_route
from proxy.endpoints.openai.chat_completions.request import OTHER_NAMES, ChatCompletionRequest
from proxy.endpoints.openai.chat_completions.response import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRenderer,
    to_chat_completion,
)
from proxy.endpoints.openai.chat_completions.stored import keeper
from proxy.endpoints.openai.chat_completions.translate import (
    ignored_hints,
    to_generation_request,
    to_param,
)
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import Failure
from proxy.http.event_stream import SSE, Put
from proxy.openapi import Operation
from proxy.record import ModelOperation, Record
from proxy.sinks import Answer


class ChatCompletionsDialect:
    framing = SSE
    operation: ModelOperation = "chat"

    def parse(self, request: ServerRequest, raw: bytes) -> Call[ChatCompletionRequest]:
        body = request.decode(raw, ChatCompletionRequest, OTHER_NAMES)
        request.record.unknown += ignored_hints(body)
        if body.store and request.store is None:
            request.record.unknown += ("store",)
        return Call(
            body=body,
            requests=(to_generation_request(body),),
            stream=bool(body.stream),
            backend=body.backend,
            cache_key=body.prompt_cache_key,
            keep=keeper(request, body),
        )

    def renderer(
        self, call: Call[ChatCompletionRequest], record: Record, put: Put
    ) -> ChatCompletionRenderer:
        return ChatCompletionRenderer(call.body, record, put)

    def whole(
        self, call: Call[ChatCompletionRequest], answers: Sequence[Answer], record: Record
    ) -> ChatCompletion:
        return to_chat_completion(call.body, answers, record)

    def to_param(self, feature: str | None, body: ChatCompletionRequest) -> str | None:
        return to_param(feature, body)

    def failure(self, failure: Failure) -> Struct:
        return failure.body


CHAT_COMPLETIONS = ChatCompletionsDialect()

create_chat_completion = generating_route(
    "/v1/chat/completions",
    CHAT_COMPLETIONS,
    Operation(
        summary="OpenAI's chat completions",
        asks=(ChatCompletionRequest,),
        answers=(ChatCompletion,),
        events=(ChatCompletionChunk,),
        may_force=True,
    ),
    name="create_chat_completion",
)
