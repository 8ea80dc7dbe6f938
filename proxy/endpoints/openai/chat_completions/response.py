"""Events -> `chat.completion`, whole or in chunks."""

import time
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.request import ToolCall
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.wire_types import Usage, to_usage, total
from proxy.errors import Failure
from proxy.http.event_stream import AroundText, Put, sse
from proxy.record import new_id
from proxy.sinks import Answer

_encode = msgspec.json.Encoder().encode

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class FunctionCall(Struct):
    arguments: str
    name: str | UnsetType = UNSET


class MessageToolCall(Struct):
    id: str
    function: FunctionCall
    type: str = "function"


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
    tool_calls: list[MessageToolCall] | UnsetType = UNSET
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
    usage: Usage


class ToolCallChunk(Struct, kw_only=True):
    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionCall


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
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET


def to_chat_completion(body: ChatCompletionRequest, answers: Sequence[Answer]) -> ChatCompletion:
    usages = [answer.finished.usage for answer in answers]
    return ChatCompletion(
        id=new_id("chatcmpl-"),
        created=int(time.time()),
        model=body.model,
        choices=[_to_choice(answer, body.functions is not None) for answer in answers],
        usage=to_usage(total(usages, len(usages))),
    )


def _to_choice(answer: Answer, legacy: bool) -> Choice:
    finished = answer.finished
    return Choice(
        index=finished.choice,
        message=_to_message(answer, legacy),
        logprobs=_to_logprobs(answer.logprobs),
        finish_reason=_to_reason(finished, legacy),
    )


def _to_message(answer: Answer, legacy: bool) -> ResponseMessage:
    """Translate the message; `content` is null only if there are calls and no text."""
    calls = [_to_tool_call(call) for call in answer.tool_calls]
    return ResponseMessage(
        content=None if calls and not answer.text else answer.text,
        reasoning_content=answer.reasoning or UNSET,
        reasoning=answer.reasoning or UNSET,
        tool_calls=UNSET if legacy or not calls else calls,
        function_call=calls[0].function if legacy and calls else UNSET,
    )


def _to_reason(finished: Finished, legacy: bool) -> FinishReason:
    return "function_call" if legacy and finished.reason == "tool_calls" else finished.reason


def _to_tool_call(call: ToolCall) -> MessageToolCall:
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


class ChatCompletionRenderer:
    """Encodes OpenAI's chunks: roles, deltas, finish reasons, usage on request, `[DONE]`."""

    def __init__(self, body: ChatCompletionRequest, put: Put) -> None:
        self._put = put
        self._id = new_id("chatcmpl-")
        self._created = int(time.time())
        self._model = body.model
        self._choices = body.n or 1
        self._legacy = body.functions is not None
        self._wants_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._finished: dict[int, Finished] = {}
        self._around = AroundText(
            lambda text, choice: self._delta(choice, Delta(content=text)),
        )

    def write(self, event: Event, /) -> bool:
        if type(event) is TextDelta and event.logprobs is None:  # nearly all events
            before, after = self._around[event.choice]
            return self._put(before + _encode(event.text) + after)
        return self._put(self._render(event))

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
                return self._end(event)
            case Restarted():
                return b""  # only in answers that are not streamed

    def error(self, failure: Failure, /) -> bytes:
        return sse(_encode(failure.body))

    def _call(self, event: ToolCallStarted | ToolCallDelta) -> bytes:
        chunk = _to_chunk(event)
        if not self._legacy:
            return self._delta(event.choice, Delta(tool_calls=[chunk]))
        # The old form has one call: the first.
        first = event.index == 0
        return self._delta(event.choice, Delta(function_call=chunk.function)) if first else b""

    def _end(self, event: Finished) -> bytes:
        self._finished[event.choice] = event
        reason = _to_reason(event, self._legacy)
        end = self._chunk([ChunkChoice(index=event.choice, delta=Delta(), finish_reason=reason)])
        if len(self._finished) < self._choices:
            return end
        if self._wants_usage:
            usages = [self._finished[choice].usage for choice in sorted(self._finished)]
            # OpenAI sends usage in a last chunk with empty choices.
            end += self._chunk([], to_usage(total(usages, len(usages))))
        return end + sse(b"[DONE]")

    def _delta(self, choice: int, delta: Delta, logprobs: Logprobs | None = None) -> bytes:
        return self._chunk([ChunkChoice(index=choice, delta=delta, logprobs=logprobs)])

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> bytes:
        chunk = ChatCompletionChunk(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage if self._wants_usage else UNSET,
        )
        return sse(_encode(chunk))


def _to_chunk(event: ToolCallStarted | ToolCallDelta) -> ToolCallChunk:
    """Translate a piece of a call: id and name come first, then pieces of the arguments."""
    if isinstance(event, ToolCallDelta):
        return ToolCallChunk(index=event.index, function=FunctionCall(event.arguments))
    return ToolCallChunk(
        index=event.index, id=event.id, type="function", function=FunctionCall("", event.name)
    )
