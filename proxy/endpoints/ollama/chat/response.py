"""Answers as Ollama's chat lines, or as one object.

Source: https://github.com/ollama/ollama/blob/main/api/types.go
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from adapters.errors import BadUpstreamError
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
from proxy.endpoints.ollama.answer import (
    Call,
    CalledFunction,
    ChatMessage,
    OllamaAnswer,
    to_end,
    to_error,
    to_logprobs,
)
from proxy.errors import Failure
from proxy.http.event_stream import Put, json_line
from proxy.record import Record
from proxy.sinks import Answer

_encode = msgspec.json.Encoder().encode
_now = datetime.now


class OllamaChatRenderer:
    """Encodes Ollama's lines: text and thinking as they come, each tool call in one piece."""

    def __init__(self, model: str, record: Record, put: Put) -> None:
        self._put = put
        self._model = model
        self._record = record
        self._calls = 0
        """Calls sent so far."""
        self._call: ToolCallStarted | None = None
        """A call with incomplete arguments."""
        self._arguments: list[str] = []

    def write(self, event: Event, /) -> bool:
        if type(event) is TextDelta and event.logprobs is None and self._call is None:
            message = ChatMessage(content=event.text)
            line = OllamaAnswer(model=self._model, created_at=_now(UTC), message=message)
            return self._put(_encode(line) + b"\n")  # nearly all events
        return self._put(self._render(event))

    def _render(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                message = ChatMessage(content=text)
                return self._end_call() + _to_line(self._model, message, logprobs)
            case ReasoningDelta(text=text):
                return self._end_call() + _to_line(self._model, ChatMessage(thinking=text))
            case ToolCallStarted():
                before = self._end_call()
                self._call = event
                return before
            case ToolCallDelta(arguments=arguments):
                self._arguments.append(arguments)
                return b""
            case Finished():
                end = to_chat(self._model, ChatMessage(), event, self._record)
                return self._end_call(event) + json_line(_encode(end))
            case Started() | Restarted() | PromptProgress():
                return b""

    def error(self, failure: Failure, /) -> bytes:
        return json_line(_encode(to_error(failure)))

    def _end_call(self, end: Finished | None = None) -> bytes:
        """Encode the call that is complete because something else follows it."""
        if self._call is None:
            return b""
        call = ToolCall(self._call.id, self._call.name, "".join(self._arguments))
        self._call, self._arguments = None, []
        calls = to_calls([call], end, self._calls)
        self._calls += len(calls)
        return b"".join([_to_line(self._model, ChatMessage(tool_calls=[c])) for c in calls])


def _to_line(
    model: str, message: ChatMessage, logprobs: Sequence[TokenLogprob] | None = None
) -> bytes:
    line = OllamaAnswer(
        model=model, created_at=_now(UTC), message=message, logprobs=to_logprobs(logprobs)
    )
    return json_line(_encode(line))


def to_whole_chat(model: str, answer: Answer, record: Record) -> OllamaAnswer:
    """Translate an answer that is sent in one piece."""
    message = ChatMessage(
        content=answer.text,
        thinking=answer.reasoning or UNSET,
        tool_calls=to_calls(answer.tool_calls, answer.finished) or UNSET,
    )
    chat = to_chat(model, message, answer.finished, record)
    return replace(chat, logprobs=to_logprobs(answer.logprobs))


def to_chat(model: str, message: ChatMessage, finished: Finished, record: Record) -> OllamaAnswer:
    """Build the last line, which has the counts and durations."""
    end = to_end(finished, record)
    return OllamaAnswer(model=model, created_at=_now(UTC), message=message, **end)


def to_calls(calls: Iterable[ToolCall], end: Finished | None, first: int = 0) -> list[Call]:
    """Translate calls, numbered from `first`; a call that the token limit has cut is omitted.

    Raises:
        BadUpstreamError: the arguments of a complete call are not a JSON object.
    """
    complete: list[Call] = []
    for call in calls:
        arguments = _arguments(call)
        if arguments is not None:
            index = first + len(complete)
            complete.append(Call(call.id, CalledFunction(index, call.name, arguments)))
        elif end is None or end.reason != "length":
            raise BadUpstreamError(
                f"The model called '{call.name}' with arguments that are not a JSON object."
            )
    return complete


def _arguments(call: ToolCall) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(call.arguments.strip() or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
