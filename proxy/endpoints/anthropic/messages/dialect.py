"""`POST /v1/messages` and `POST /v1/messages/count_tokens`.

Source: https://platform.claude.com/docs/en/api/messages
"""

from collections.abc import Sequence

from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import Struct

from proxy.endpoints.anthropic.errors import ERRORS, to_error
from proxy.endpoints.anthropic.messages.request import OTHER_NAMES, MessagesRequest, PromptFields
from proxy.endpoints.anthropic.messages.response import (
    FRAMING,
    Message,
    MessageRenderer,
    StreamEvent,
    to_message,
)
from proxy.endpoints.anthropic.messages.translate import to_param, translate, translate_prompt
from proxy.endpoints.generate import Call, count, generating_route
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import Failure
from proxy.http.event_stream import Put
from proxy.http.json_response import JSONResponse
from proxy.openapi import Operation
from proxy.record import ModelOperation, Record
from proxy.sinks import Answer

_SESSION = "x-claude-code-session-id"
"""A header that is the same in all requests of one conversation with Claude Code."""

_INTERLEAVED = "interleaved-thinking-"
"""The beta of thoughts between calls of tools, without its date."""


class MessagesDialect:
    framing = FRAMING
    operation: ModelOperation = "chat"

    def parse(self, request: ServerRequest, raw: bytes) -> Call[MessagesRequest]:
        body = request.decode(raw, MessagesRequest, OTHER_NAMES)
        betas = request.fields.get("anthropic-beta", "")
        translated = translate(body, interleaves=_INTERLEAVED in betas)
        request.record.unknown += translated.ignored
        return Call(
            body=body,
            requests=(translated.request,),
            stream=bool(body.stream),
            backend=body.backend,
            cache_key=request.fields.get(_SESSION),
        )

    def renderer(self, call: Call[MessagesRequest], record: Record, put: Put) -> MessageRenderer:
        return MessageRenderer(call.body, record, put)

    def whole(
        self, call: Call[MessagesRequest], answers: Sequence[Answer], record: Record
    ) -> Message:
        return to_message(call.body, answers[0], record)

    def to_param(self, feature: str | None, body: MessagesRequest) -> str | None:
        return to_param(feature, body)

    def failure(self, failure: Failure) -> Struct:
        return to_error(failure)


create_message = generating_route(
    "/v1/messages",
    MessagesDialect(),
    Operation(
        summary="Anthropic's messages",
        asks=(MessagesRequest,),
        answers=(Message,),
        events=(StreamEvent,),
        may_force=True,
    ),
    name="create_message",
    errors=ERRORS,
)


class TokenCount(Struct):
    input_tokens: int


@post(
    "/v1/messages/count_tokens",
    status_code=200,
    operation=Operation(
        summary="The tokens of a prompt, without an answer",
        asks=(PromptFields,),
        answers=(TokenCount,),
        may_force=True,
    ),
    errors=ERRORS,
)
async def count_message_tokens(request: ServerRequest) -> ASGIResponse:
    """Count as for an answer; `x-tandem-token-count` says whether exactly."""
    body = await request.read(PromptFields)
    translated = translate_prompt(body)
    request.record.unknown += translated.ignored
    call = Call(body=body, requests=(translated.request,), stream=False, backend=body.backend)
    counted = await count(request, call, to_param)
    how = {"x-tandem-token-count": "exact" if counted.exact else "estimate"}
    return JSONResponse(TokenCount(counted.tokens), headers=how)
