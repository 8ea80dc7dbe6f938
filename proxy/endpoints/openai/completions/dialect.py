"""`POST /v1/completions`.

Source: https://platform.openai.com/docs/api-reference/completions/create
"""

from collections.abc import Sequence

from msgspec import Struct

from proxy.endpoints.generate import Call, generating_route
from proxy.endpoints.openai.completions.request import (
    OTHER_NAMES,
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
from proxy.errors import Failure
from proxy.http.event_stream import SSE, Put
from proxy.openapi import Operation
from proxy.record import ModelOperation, Record
from proxy.sinks import Answer


class CompletionsDialect:
    framing = SSE
    operation: ModelOperation = "text_completion"

    def parse(self, request: ServerRequest, raw: bytes) -> Call[CompletionRequest]:
        body = request.decode(raw, CompletionRequest, OTHER_NAMES)
        return Call(
            body=body,
            requests=to_generation_requests(body),
            stream=bool(body.stream),
            backend=body.backend,
        )

    def renderer(
        self, call: Call[CompletionRequest], record: Record, put: Put
    ) -> CompletionRenderer:
        return CompletionRenderer(call.body, len(call.requests), record, put)

    def whole(
        self, call: Call[CompletionRequest], answers: Sequence[Answer], record: Record
    ) -> Completion:
        return to_completion(call.body, answers, record)

    def to_param(self, feature: str | None, body: CompletionRequest) -> str | None:
        return to_param(feature, body)

    def failure(self, failure: Failure) -> Struct:
        return failure.body


create_completion = generating_route(
    "/v1/completions",
    CompletionsDialect(),
    Operation(
        summary="OpenAI's completions of raw text",
        asks=(CompletionRequest,),
        answers=(Completion,),
        events=(Completion,),
        may_force=True,
    ),
    name="create_completion",
)
