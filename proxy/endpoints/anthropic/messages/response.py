"""Events -> a message, whole or as the events of Anthropic's streams.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from adapters.events import (
    Event,
    Finished,
    PromptProgress,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.request import ToolCall
from proxy.endpoints.anthropic.errors import to_error
from proxy.endpoints.anthropic.messages.request import MessagesRequest, ThinkingDisabled
from proxy.endpoints.anthropic.messages.signature import to_signature
from proxy.errors import Failure
from proxy.http.event_stream import Framing, Put, around_text, sse
from proxy.record import Record, new_id
from proxy.sinks import Answer, AnswerPart, ReasoningPart, TextPart

_SPARE = 16
"""Tokens that an engine may leave free at the end of a context."""

JSON = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str
    citations: list[JSON] = []
    """Always empty."""


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class Caller(Struct, frozen=True, tag_field="type", tag="direct"):
    """The model itself, not a tool that runs on a server."""


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: JSON
    caller: Caller = Caller()


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class CacheCreation(Struct, frozen=True):
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class OutputTokensDetails(Struct):
    thinking_tokens: int


class Usage(Struct, kw_only=True):
    """The tokens of a prompt are the sum of the three counts of input tokens.

    Values that only Anthropic's servers have are null: clients check that the names are there.
    """

    input_tokens: int
    """Tokens that were not found in a cache."""
    cache_creation_input_tokens: int = 0
    """Always 0: every prompt is cached without being asked, and none costs more for that."""
    cache_read_input_tokens: int = 0
    output_tokens: int
    cache_creation: CacheCreation = CacheCreation()
    output_tokens_details: OutputTokensDetails | None = None
    """`None` where the engine does not tell them apart."""
    server_tool_use: None = None
    inference_geo: None = None
    service_tier: str = "standard"


class ContextManagement(Struct):
    applied_edits: list[JSON] = []
    """Always empty: no history is cut."""


class Message(Struct, kw_only=True, tag_field="type", tag="message"):
    id: str
    role: str = "assistant"
    model: str
    content: Sequence[ContentBlock]
    stop_reason: str | None
    stop_sequence: str | None
    stop_details: None = None
    """A refusal's in Anthropic's answers."""
    container: None = None
    usage: Usage
    context_management: ContextManagement | UnsetType = UNSET
    """For requests that have it."""


# --- events of a stream ---


class MessageStart(Struct, tag_field="type", tag="message_start"):
    message: Message


class ContentBlockStart(Struct, tag_field="type", tag="content_block_start"):
    index: int
    content_block: ContentBlock


class TextDeltaPart(Struct, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDeltaPart(Struct, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, tag_field="type", tag="signature_delta"):
    signature: str


class InputJSONDelta(Struct, tag_field="type", tag="input_json_delta"):
    partial_json: str


class ContentBlockDelta(Struct, tag_field="type", tag="content_block_delta"):
    index: int
    delta: TextDeltaPart | ThinkingDeltaPart | SignatureDelta | InputJSONDelta


class ContentBlockStop(Struct, tag_field="type", tag="content_block_stop"):
    index: int


class MessageEnd(Struct):
    stop_reason: str
    stop_sequence: str | None
    stop_details: None = None


class MessageDelta(Struct, tag_field="type", tag="message_delta"):
    delta: MessageEnd
    usage: Usage
    context_management: ContextManagement | UnsetType = UNSET


class MessageStop(Struct, tag_field="type", tag="message_stop"):
    pass


class Ping(Struct, tag_field="type", tag="ping"):
    """Keeps a silent stream alive."""


StreamEvent = (
    MessageStart
    | Ping
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
)


def to_message(body: MessagesRequest, answer: Answer, record: Record) -> Message:
    end = to_end(answer.finished, body, record.context)
    message = Message(
        id=new_id("msg_"),
        model=body.model,
        content=list(_to_content(body, answer)),
        stop_reason=end.stop_reason,
        stop_sequence=end.stop_sequence,
        usage=to_usage(record),
        context_management=_context_management(body),
    )
    return message if body.max_tokens else _emptied(message)


def _emptied(message: Message) -> Message:
    """Return the answer to a request that only fills the cache."""
    usage = replace(message.usage, output_tokens=0, output_tokens_details=None)
    return replace(message, content=(), stop_reason="max_tokens", stop_sequence=None, usage=usage)


def _to_content(body: MessagesRequest, answer: Answer) -> Sequence[ContentBlock]:
    hides = hides_thinking(body)
    return [block for part in answer.parts if (block := _to_block(part, hides)) is not None]


def _to_block(part: AnswerPart, hides: bool) -> ContentBlock | None:
    """Translate a part; `None` where it has nothing to show."""
    match part:
        case TextPart(text=text):
            return TextBlock(text) if text else None
        case ReasoningPart(text=text):
            shown, hidden = ("", text) if hides else (text, "")
            return ThinkingBlock(shown, to_signature(hidden)) if text else None
        case ToolCall():
            return _to_tool_use(part)


def _to_tool_use(call: ToolCall) -> ToolUseBlock | None:
    """Translate a call; one that the limit has cut, so that its input cannot be read, is left out:
    a client would run it."""
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=JSON)
    except msgspec.DecodeError:
        return None
    return ToolUseBlock(_to_id(call.id), call.name, arguments)


def _to_id(call_id: str) -> str:
    return f"toolu_{call_id.removeprefix('call_')}"


def hides_thinking(body: MessagesRequest) -> bool:
    thinking = body.thinking
    return not isinstance(thinking, ThinkingDisabled | None) and thinking.display == "omitted"


def to_end(finished: Finished, body: MessagesRequest, context: int | None) -> MessageEnd:
    """Translate the reason; only `stop_sequence` comes with the string."""
    reason = _to_stop_reason(finished, body, context)
    return MessageEnd(reason, finished.stop_sequence if reason == "stop_sequence" else None)


def _to_stop_reason(finished: Finished, body: MessagesRequest, context: int | None) -> str:
    if finished.reason == "tool_calls":
        return "tool_use"
    if finished.reason == "length":
        is_full = _fills_context(finished, body, context)
        return "model_context_window_exceeded" if is_full else "max_tokens"
    return "end_turn" if finished.stop_sequence is None else "stop_sequence"


def _fills_context(finished: Finished, body: MessagesRequest, context: int | None) -> bool:
    """False for an answer that ends because it repeats one token: clients compress a conversation
    that fills its context."""
    usage = finished.usage
    if usage.completion_tokens >= body.max_tokens:
        return False
    return context is None or usage.prompt_tokens + usage.completion_tokens >= context - _SPARE


def to_usage(record: Record) -> Usage:
    """Translate the counts of a complete answer."""
    usage = record.usage
    assert usage is not None  # noqa: S101 - a complete answer has one.
    cached = usage.cached_tokens or 0
    thinking = usage.reasoning_tokens
    return Usage(
        input_tokens=usage.prompt_tokens - cached,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
        output_tokens_details=None if thinking is None else OutputTokensDetails(thinking),
    )


def to_prompt_usage(started: Started) -> Usage:
    """Translate the counts that are known before an answer; an unknown one is 0."""
    cached = started.cached_tokens or 0
    return Usage(
        input_tokens=(started.prompt_tokens or cached) - cached,
        cache_read_input_tokens=cached,
        output_tokens=0,
    )


def _context_management(body: MessagesRequest) -> ContextManagement | UnsetType:
    return UNSET if body.context_management is None else ContextManagement()


def _frame(event: StreamEvent) -> bytes:
    return sse(_encode(event), str(event.__struct_config__.tag))


PING = _frame(Ping())
FRAMING = Framing("text/event-stream", b"text/event-stream; charset=utf-8", PING)
"""Anthropic's streams are kept alive by an event, which all of its clients know."""


class MessageRenderer:
    """Encodes the events of a stream: one block after the other, each opened and closed once."""

    def __init__(self, body: MessagesRequest, record: Record, put: Put) -> None:
        self._body = body
        self._record = record
        self._put = put
        self._hides_thinking = hides_thinking(body)
        self._index = -1
        self._kind: type[Event] | None = None
        """The kind of event that the open block is made of; `None`: no block is open."""
        self._hidden: list[str] = []
        """Pieces of thinking that the client does not want to see."""
        self._around: dict[int, tuple[bytes, bytes]] = {}
        """Index of a block -> the bytes around a text."""

    def write(self, event: Event, /) -> bool:
        if type(event) is TextDelta and self._kind is TextDelta:  # nearly all events
            around = self._around.get(self._index)
            if around is None:
                around = self._around[self._index] = around_text(self._text, self._index)
            before, after = around
            return self._put(before + _encode(event.text) + after)
        return self._put(self._render(event))

    def error(self, failure: Failure, /) -> bytes:
        return sse(_encode(to_error(failure)), "error")

    def _render(self, event: Event) -> bytes:
        match event:
            case Started():
                return self._begin(event)
            case TextDelta(text=text):
                return self._piece(TextDelta, TextBlock(""), TextDeltaPart(text)) if text else b""
            case ReasoningDelta(text=text):
                return self._thinking(text)
            case ToolCallStarted():
                block = ToolUseBlock(_to_id(event.id), event.name, {})
                return self._close() + self._open(ToolCallDelta, block)
            case ToolCallDelta(arguments=arguments):
                return self._delta(InputJSONDelta(arguments))
            case Finished():
                return self._close() + self._end(event)
            case Restarted() | PromptProgress():
                return b""  # never in a streamed answer of the router

    def _begin(self, started: Started) -> bytes:
        message = Message(
            id=new_id("msg_"),
            model=self._body.model,
            content=(),
            stop_reason=None,
            stop_sequence=None,
            usage=to_prompt_usage(started),
        )
        return _frame(MessageStart(message)) + PING

    def _end(self, event: Finished) -> bytes:
        end = to_end(event, self._body, self._record.context)
        delta = MessageDelta(end, to_usage(self._record), _context_management(self._body))
        return _frame(delta) + _frame(MessageStop())

    def _thinking(self, text: str) -> bytes:
        delta = ThinkingDeltaPart(text)
        block = ThinkingBlock("", "")
        if not self._hides_thinking:
            return self._piece(ReasoningDelta, block, delta)
        self._hidden.append(text)
        is_open = self._kind is ReasoningDelta
        return b"" if is_open else self._close() + self._open(ReasoningDelta, block)

    def _piece(
        self, kind: type[Event], block: ContentBlock, delta: TextDeltaPart | ThinkingDeltaPart
    ) -> bytes:
        """Encode a piece of a block of `kind`, which is opened if another one is open."""
        if self._kind is kind:
            return self._delta(delta)
        return self._close() + self._open(kind, block) + self._delta(delta)

    def _open(self, kind: type[Event], block: ContentBlock) -> bytes:
        self._index += 1
        self._kind = kind
        return _frame(ContentBlockStart(self._index, block))

    def _close(self) -> bytes:
        """End the open block, if there is one; thinking gets its signature before that."""
        kind, self._kind = self._kind, None
        if kind is None:
            return b""
        signature = b""
        if kind is ReasoningDelta:
            signature = self._delta(SignatureDelta(to_signature("".join(self._hidden))))
            self._hidden.clear()
        return signature + _frame(ContentBlockStop(self._index))

    def _delta(
        self, delta: TextDeltaPart | ThinkingDeltaPart | SignatureDelta | InputJSONDelta
    ) -> bytes:
        return _frame(ContentBlockDelta(self._index, delta))

    def _text(self, text: str, index: int) -> bytes:
        return _frame(ContentBlockDelta(index, TextDeltaPart(text)))
