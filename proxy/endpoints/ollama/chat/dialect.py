"""Ollama's chat, streamed as lines of JSON unless the client says otherwise.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from collections.abc import Sequence

from proxy.endpoints.generate import Call
from proxy.endpoints.ollama.answer import OllamaAnswer, OllamaError, to_error
from proxy.endpoints.ollama.chat.request import (
    OllamaChatRequest,
    messages_left_out,
    to_generation_request,
    to_param,
)
from proxy.endpoints.ollama.chat.response import (
    OllamaChatRenderer,
    to_whole_chat,
)
from proxy.endpoints.ollama.fields import ignored_cuts
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import Failure
from proxy.http.event_stream import NDJSON, Put
from proxy.record import ModelOperation, Record
from proxy.sinks import Answer


class OllamaChatDialect:
    framing = NDJSON
    operation: ModelOperation = "chat"

    def parse(self, request: ServerRequest, raw: bytes) -> Call[OllamaChatRequest]:
        body = request.decode(raw, OllamaChatRequest)
        request.record.unknown += (*ignored_cuts(body), *messages_left_out(body))
        return Call(
            body=body,
            requests=(to_generation_request(body),),
            stream=body.stream is not False,
            backend=body.backend,
        )

    def renderer(
        self, call: Call[OllamaChatRequest], record: Record, put: Put
    ) -> OllamaChatRenderer:
        return OllamaChatRenderer(call.body.model, record, put)

    def whole(
        self, call: Call[OllamaChatRequest], answers: Sequence[Answer], record: Record
    ) -> OllamaAnswer:
        return to_whole_chat(call.body.model, answers[0], record)

    def to_param(self, feature: str | None, body: OllamaChatRequest) -> str | None:
        return to_param(feature, body)

    def failure(self, failure: Failure) -> OllamaError:
        return to_error(failure)
