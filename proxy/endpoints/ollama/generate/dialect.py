"""`POST /api/generate`, streamed as lines of JSON unless the client says otherwise.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from collections.abc import Sequence
from functools import partial

from proxy.endpoints.generate import Call, generating_route
from proxy.endpoints.ollama.answer import OllamaAnswer, OllamaError, to_error
from proxy.endpoints.ollama.fields import ignored_cuts
from proxy.endpoints.ollama.generate.request import (
    OllamaGenerateRequest,
    to_generation_request,
    to_param,
)
from proxy.endpoints.ollama.generate.response import OllamaGenerateRenderer, to_whole
from proxy.endpoints.ollama.loading import load_or_unload
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import Failure
from proxy.http.event_stream import NDJSON, Put
from proxy.openapi import Operation
from proxy.record import ModelOperation, Record
from proxy.sinks import Answer


class OllamaGenerateDialect:
    framing = NDJSON
    operation: ModelOperation = "text_completion"

    def parse(self, request: ServerRequest, raw: bytes) -> Call[OllamaGenerateRequest]:
        body = request.decode(raw, OllamaGenerateRequest)
        request.record.unknown += ignored_cuts(body)
        load = partial(load_or_unload, body, {"response": ""})
        return Call(
            body=body,
            requests=(to_generation_request(body),),
            stream=body.stream is not False,
            backend=body.backend,
            respond=load if body.is_empty else None,
        )

    def renderer(
        self, call: Call[OllamaGenerateRequest], record: Record, put: Put
    ) -> OllamaGenerateRenderer:
        return OllamaGenerateRenderer(call.requests[0], record, put)

    def whole(
        self, call: Call[OllamaGenerateRequest], answers: Sequence[Answer], record: Record
    ) -> OllamaAnswer:
        return to_whole(call.requests[0], answers[0], record)

    def to_param(self, feature: str | None, body: OllamaGenerateRequest) -> str | None:
        return to_param(feature, body)

    def failure(self, failure: Failure) -> OllamaError:
        return to_error(failure)


create_generation = generating_route(
    "/api/generate",
    OllamaGenerateDialect(),
    Operation(
        summary="Ollama's answer to a prompt",
        asks=(OllamaGenerateRequest,),
        answers=(OllamaAnswer,),
        events=(OllamaAnswer,),
        media_type=NDJSON.media_type,
        may_force=True,
    ),
    name="create_generation",
)
