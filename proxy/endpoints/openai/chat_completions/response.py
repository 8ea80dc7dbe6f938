"""Events -> `chat.completion`, whole or in chunks."""

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from adapters.events import (
    Event,
    Finished,
    PromptProgress,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.request import ToolCall
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest, CustomTool
from proxy.endpoints.openai.chunks import ChunkRenderer
from proxy.endpoints.tools import InputReader, to_input
from proxy.endpoints.wire_types import Usage, to_usage
from proxy.http.event_stream import Put
from proxy.record import Record
from proxy.sinks import Answer

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class FunctionCall(Struct):
    arguments: str
    name: str | UnsetType = UNSET


class MessageToolCall(Struct, tag_field="type", tag="function"):
    id: str
    function: FunctionCall


class CustomCall(Struct):
    input: str
    name: str | UnsetType = UNSET


class MessageCustomToolCall(Struct, tag_field="type", tag="custom"):
    id: str
    custom: CustomCall


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: tuple[int, ...] | None


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(Struct):
    content: list[TokenLogprobs]
    refusal: None = None


class ResponseMessage(Struct, kw_only=True):
    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    """The same text: clients differ in the name that they read."""
    annotations: list[None] = []
    """Citations of web searches in OpenAI's answers: always empty."""
    tool_calls: list[MessageToolCall | MessageCustomToolCall] | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET
    """The call in its old form, for requests with `functions`."""


class Choice(Struct, kw_only=True):
    index: int
    message: ResponseMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Struct, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    system_fingerprint: str | UnsetType = UNSET
    """Engine, version and weights: where it is the same, a seed repeats an answer."""
    usage: Usage


class ToolCallChunk(Struct, kw_only=True):
    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionCall | UnsetType = UNSET
    custom: CustomCall | UnsetType = UNSET


class Delta(Struct, kw_only=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallChunk] | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET


class ChunkChoice(Struct, kw_only=True):
    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(Struct, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: Sequence[ChunkChoice]
    system_fingerprint: str | UnsetType = UNSET
    usage: Usage | UnsetType | None = UNSET


def to_chat_completion(
    body: ChatCompletionRequest, answers: Sequence[Answer], record: Record
) -> ChatCompletion:
    custom = _custom_names(body)
    id_, created = record.identify("chatcmpl-")
    return ChatCompletion(
        id=id_,
        created=created,
        model=body.model,
        choices=[_to_choice(each, body.functions is not None, custom) for each in answers],
        system_fingerprint=record.fingerprint or UNSET,
        usage=to_usage(record),
    )


def _custom_names(body: ChatCompletionRequest) -> frozenset[str]:
    tools = body.tools or ()
    return frozenset([tool.custom.name for tool in tools if isinstance(tool, CustomTool)])


def _to_choice(answer: Answer, legacy: bool, custom: frozenset[str]) -> Choice:
    finished = answer.finished
    return Choice(
        index=finished.choice,
        message=_to_message(answer, legacy, custom),
        logprobs=_to_logprobs(answer.logprobs),
        finish_reason=_to_reason(finished, legacy),
    )


def _to_message(answer: Answer, legacy: bool, custom: frozenset[str]) -> ResponseMessage:
    """Translate all of a choice; `content` is null where there are only calls.

    `custom` names the tools that are called with a text in place of arguments.
    """
    calls = [_to_tool_call(call, custom) for call in answer.tool_calls]
    first = answer.tool_calls[0] if legacy and answer.tool_calls else None
    return ResponseMessage(
        content=None if calls and not answer.text else answer.text,
        reasoning_content=answer.reasoning or UNSET,
        reasoning=answer.reasoning or UNSET,
        tool_calls=UNSET if legacy or not calls else calls,
        function_call=FunctionCall(first.arguments, first.name) if first else UNSET,
    )


def _to_reason(finished: Finished, legacy: bool) -> FinishReason:
    return "function_call" if legacy and finished.reason == "tool_calls" else finished.reason


def _to_tool_call(
    call: ToolCall, custom: frozenset[str]
) -> MessageToolCall | MessageCustomToolCall:
    if call.name in custom:
        return MessageCustomToolCall(call.id, CustomCall(to_input(call.arguments), call.name))
    return MessageToolCall(call.id, FunctionCall(call.arguments, call.name))


def _to_logprobs(tokens: tuple[TokenLogprob, ...] | None) -> Logprobs | None:
    if tokens is None:
        return None
    return Logprobs(
        [
            TokenLogprobs(
                token.token,
                token.logprob,
                token.bytes,
                [TopLogprob(top.token, top.logprob, top.bytes) for top in token.top],
            )
            for token in tokens
        ]
    )


class ChatCompletionRenderer(ChunkRenderer):
    """Encodes chunks of roles, texts, reasoning and calls."""

    def __init__(self, body: ChatCompletionRequest, record: Record, put: Put) -> None:
        self._choices = body.n or 1
        super().__init__(body, "chatcmpl-", self._choices, record, put)
        self._legacy = body.functions is not None
        self._custom = _custom_names(body)
        self._inputs: dict[tuple[int, int], InputReader] = {}
        """Choice and index of a custom call -> what reads its text."""

    def _render(self, event: Event) -> bytes:
        match event:
            case Started():
                role = Delta(role="assistant", content="")
                return b"".join([self._delta(choice, role) for choice in range(self._choices)])
            case TextDelta(text=text, logprobs=logprobs):
                return self._delta(event.choice, Delta(content=text), _to_logprobs(logprobs))
            case ReasoningDelta(text=text):
                return self._delta(event.choice, Delta(reasoning_content=text, reasoning=text))
            case ToolCallStarted() | ToolCallDelta():
                return self._call(event)
            case Finished():
                return self._end(self._last_chunks(event))
            case Restarted() | PromptProgress():
                return b""  # never in a streamed answer of the router

    def _call(self, event: ToolCallStarted | ToolCallDelta) -> bytes:
        key = (event.choice, event.index)
        if isinstance(event, ToolCallStarted) and event.name in self._custom:
            self._inputs[key] = InputReader()
            call = CustomCall("", event.name)
            chunk = ToolCallChunk(index=event.index, id=event.id, type="custom", custom=call)
            return self._delta(event.choice, Delta(tool_calls=[chunk]))
        if isinstance(event, ToolCallDelta) and key in self._inputs:
            return self._input(event, self._inputs[key].feed(event.arguments))
        chunk = _to_chunk(event)
        if not self._legacy:
            return self._delta(event.choice, Delta(tool_calls=[chunk]))
        # The old form has one call: the first.
        first = event.index == 0
        return self._delta(event.choice, Delta(function_call=chunk.function)) if first else b""

    def _input(self, event: ToolCallDelta, text: str) -> bytes:
        """Encode a piece of the text of a custom call."""
        chunk = ToolCallChunk(index=event.index, custom=CustomCall(text))
        return self._delta(event.choice, Delta(tool_calls=[chunk])) if text else b""

    def _rests(self, choice: int) -> bytes:
        """Encode the texts of custom calls that their pieces did not show."""
        return b"".join(
            [
                self._input(ToolCallDelta(index, "", choice), reader.rest())
                for (of, index), reader in self._inputs.items()
                if of == choice
            ]
        )

    def _last_chunks(self, event: Finished) -> bytes:
        reason = _to_reason(event, self._legacy)
        end = ChunkChoice(index=event.choice, delta=Delta(), finish_reason=reason)
        return self._rests(event.choice) + self._chunk([end])

    def _text(self, text: str, choice: int) -> bytes:
        return self._delta(choice, Delta(content=text))

    def _delta(self, choice: int, delta: Delta, logprobs: Logprobs | None = None) -> bytes:
        return self._chunk([ChunkChoice(index=choice, delta=delta, logprobs=logprobs)])

    def _chunk(self, choices: Sequence[ChunkChoice], usage: Usage | None = None) -> bytes:
        chunk = ChatCompletionChunk(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=self._record.fingerprint or UNSET,
            usage=usage if self._wants_usage else UNSET,
        )
        return self._sse(chunk)


def _to_chunk(event: ToolCallStarted | ToolCallDelta) -> ToolCallChunk:
    """Translate a piece of a call: id and name come first, then pieces of the arguments."""
    if isinstance(event, ToolCallDelta):
        return ToolCallChunk(index=event.index, function=FunctionCall(event.arguments))
    return ToolCallChunk(
        index=event.index, id=event.id, type="function", function=FunctionCall("", event.name)
    )
