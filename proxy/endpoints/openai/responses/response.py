"""The object of an answer, and an answer in one piece.

Every field of the request is repeated as OpenAI's schema of the object says, with the default in
place of an absent one.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from adapters.events import Finished, TokenLogprob
from adapters.request import ToolCall
from proxy.endpoints.openai.responses import request as wire
from proxy.endpoints.openai.responses.items import (
    JSON,
    CustomToolCallItem,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
    SummaryText,
)
from proxy.endpoints.openai.responses.turn import Turn
from proxy.endpoints.tools import to_input
from proxy.errors import Failure
from proxy.record import Record, new_id
from proxy.sinks import Answer, AnswerPart, ReasoningPart, TextPart

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class InputTokensDetails(Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct):
    reasoning_tokens: int


class Usage(Struct, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(Struct):
    code: str
    message: str


class IncompleteDetails(Struct):
    reason: Literal["max_output_tokens", "content_filter"]


class Reasoning(Struct):
    effort: wire.Effort | None
    summary: wire.Summary | None


class JSONSchemaFormat(Struct, kw_only=True, tag_field="type", tag="json_schema"):
    name: str
    description: str | UnsetType
    schema: JSON
    strict: bool


class Text(Struct, kw_only=True):
    format: wire.TextFormat | wire.JSONObjectFormat | JSONSchemaFormat
    verbosity: Literal["low", "medium", "high"]


class ConversationId(Struct):
    id: str


class Response(Struct, kw_only=True):
    id: str
    object: str = "response"
    created_at: int
    status: ResponseStatus
    background: bool
    completed_at: int | None = None
    conversation: ConversationId | UnsetType = UNSET
    error: ResponseError | None = None
    frequency_penalty: float
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: Sequence[OutputItem]
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    reasoning: Reasoning
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: Text
    tool_choice: str | JSON
    tools: Sequence[JSON]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: Usage | None = None
    user: str | UnsetType = UNSET
    metadata: dict[str, str]


def to_response(
    turn: Turn, status: ResponseStatus, output: Sequence[OutputItem] = (), **fields: Any
) -> Response:
    """Create the object of an answer that has the items `output` so far.

    `fields` are those that depend on the status: `usage`, `error` and the like.
    """
    body = turn.body
    return Response(
        id=turn.id,
        created_at=turn.created_at,
        status=status,
        background=bool(body.background),
        conversation=_conversation(body.conversation),
        frequency_penalty=body.frequency_penalty or 0.0,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=body.model,
        output=output,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        presence_penalty=body.presence_penalty or 0.0,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        prompt_cache_retention=body.prompt_cache_retention,
        reasoning=_reasoning(body.reasoning),
        safety_identifier=body.safety_identifier,
        service_tier="default",
        store=turn.is_stored,
        temperature=1.0 if body.temperature is None else body.temperature,
        text=_text(body.text),
        tool_choice=body.tool_choice or "auto",
        tools=turn.toolbox.echo,
        top_logprobs=body.top_logprobs or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        truncation=body.truncation or "disabled",
        user=body.user or UNSET,
        metadata=body.metadata or {},
        **fields,
    )


def _conversation(conversation: str | JSON | None) -> ConversationId | UnsetType:
    if conversation is None:
        return UNSET
    return ConversationId(
        conversation if isinstance(conversation, str) else str(conversation.get("id"))
    )


def _reasoning(reasoning: wire.Reasoning | None) -> Reasoning:
    if reasoning is None:
        return Reasoning(None, None)
    return Reasoning(reasoning.effort, reasoning.summary or reasoning.generate_summary)


def _text(text: wire.Text | None) -> Text:
    form = text.format if text is not None and text.format is not None else wire.TextFormat()
    if isinstance(form, wire.JSONSchemaFormat):
        form = JSONSchemaFormat(
            name=form.name,
            description=form.description or UNSET,
            schema=form.schema,
            strict=bool(form.strict),
        )
    return Text(format=form, verbosity=(text and text.verbosity) or "medium")


def ended(turn: Turn, output: Sequence[OutputItem], finished: Finished, record: Record) -> Response:
    """Create the object of an answer that the model has ended, or that the limit has cut."""
    if finished.reason == "length":
        details = IncompleteDetails("max_output_tokens")
        usage = to_usage(record)
        return to_response(turn, "incomplete", output, incomplete_details=details, usage=usage)
    now = int(time.time())
    return to_response(turn, "completed", output, completed_at=now, usage=to_usage(record))


def empty_response(turn: Turn) -> Response:
    """Create the object of a complete answer for which nothing was generated."""
    usage = Usage(
        input_tokens=0,
        input_tokens_details=InputTokensDetails(0),
        output_tokens=0,
        output_tokens_details=OutputTokensDetails(0),
        total_tokens=0,
    )
    return to_response(turn, "completed", completed_at=int(time.time()), usage=usage)


_ERROR_CODES = {
    "rate_limit_error": "rate_limit_exceeded",
    "requests": "rate_limit_exceeded",
    "tokens": "rate_limit_exceeded",
    "invalid_request_error": "invalid_prompt",
}
"""Type of a failure -> the code in an answer's `error`, one of those in OpenAI's schema."""


def failed(turn: Turn, output: Sequence[OutputItem], failure: Failure) -> Response:
    """Create the object of an answer that failed after it had begun."""
    code = _ERROR_CODES.get(failure.type, "server_error")
    return to_response(turn, "failed", output, error=ResponseError(code, failure.message))


def to_usage(record: Record) -> Usage:
    """Translate the counts of a complete answer; a detail that the engine does not report is 0."""
    usage = record.usage
    assert usage is not None  # noqa: S101 - a complete answer has counts.
    return Usage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.cached_tokens or 0),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(usage.reasoning_tokens or 0),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def whole_response(turn: Turn, answer: Answer, record: Record) -> Response:
    """Translate an answer in one piece, and hand it to the store."""
    status: Status = "incomplete" if answer.finished.reason == "length" else "completed"
    *earlier, last = answer.parts or (TextPart(""),)
    output = [_to_item(turn, part, "completed") for part in earlier]
    output.append(_to_item(turn, last, status))
    if isinstance(last, ReasoningPart) and status == "completed":
        output.append(message_item(new_id("msg_"), "", []))
    response = ended(turn, output, answer.finished, record)
    turn.store.keep(turn, response)
    return response


def _to_item(turn: Turn, part: AnswerPart, status: Status) -> OutputItem:
    match part:
        case TextPart(text=text, logprobs=logprobs):
            return message_item(new_id("msg_"), text, to_logprobs(logprobs or ()), status)
        case ReasoningPart(text=text):
            return reasoning_item(turn, new_id("rs_"), text)
        case ToolCall():
            return call_item(turn, part, status)


def reasoning_item(turn: Turn, item_id: str, text: str) -> ReasoningItem:
    """Create the item of complete reasoning: as summary where one is asked for, else in full."""
    sealed = turn.includes("reasoning.encrypted_content")
    return ReasoningItem(
        id=item_id,
        summary=[SummaryText(text=text)] if turn.wants_summary else [],
        content=UNSET if turn.wants_summary else [ReasoningText(text=text)],
        encrypted_content=turn.encryption.seal_reasoning(text) if sealed else UNSET,
    )


def message_item(
    item_id: str, text: str, logprobs: list[JSON], status: Status = "completed"
) -> MessageItem:
    content = OutputText(text=text, logprobs=logprobs)
    return MessageItem(id=item_id, status=status, role="assistant", content=[content])


def call_item(
    turn: Turn, call: ToolCall, status: Status, item_id: str | None = None
) -> FunctionCallItem | CustomToolCallItem:
    """Translate a call: to a text if the tool is custom, and to the client's names."""
    offered = turn.toolbox.offered.get(call.name)
    name = offered.name if offered else call.name
    namespace = (offered and offered.namespace) or UNSET
    if offered is not None and offered.is_custom:
        return CustomToolCallItem(
            id=item_id or new_id("ctc_"),
            status=status,
            call_id=call.id,
            name=name,
            namespace=namespace,
            input=to_input(call.arguments),
        )
    return FunctionCallItem(
        id=item_id or new_id("fc_"),
        status=status,
        call_id=call.id,
        name=name,
        namespace=namespace,
        arguments=call.arguments,
    )


def to_logprobs(tokens: Sequence[TokenLogprob]) -> list[JSON]:
    return [
        {**_logprob(token), "top_logprobs": [_logprob(top) for top in token.top]}
        for token in tokens
    ]


def _logprob(token: TokenLogprob) -> JSON:
    return {"token": token.token, "bytes": list(token.bytes or ()), "logprob": token.logprob}
