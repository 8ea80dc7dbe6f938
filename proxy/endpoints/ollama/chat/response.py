"""Events -> Ollama's chat lines, or the one object of them all.

Source: https://github.com/ollama/ollama/blob/main/api/types.go
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from adapters.errors import BadUpstreamError
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
from proxy.endpoints.ollama.chat.request import OllamaChatRequest, to_param
from proxy.endpoints.times import Times
from proxy.errors import to_failure
from proxy.http.event_stream import Frame
from proxy.sinks import Answer

DoneReason = Literal["stop", "length", "load", "unload"]


class CalledFunction(Struct):
    index: int
    name: str
    arguments: dict[str, Any]


class Call(Struct):
    id: str
    function: CalledFunction


class ChatMessage(Struct, kw_only=True):
    role: str = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: tuple[int, ...] | UnsetType


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob] | UnsetType


class OllamaChat(Struct, kw_only=True):
    """A line, or the whole answer; what is counted is in the last line only."""

    model: str
    created_at: datetime
    message: ChatMessage
    done: bool = False
    done_reason: DoneReason | UnsetType = UNSET
    logprobs: list[Logprob] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    """In nanoseconds, by Tandem's clock; so are the others where the engine does not tell them."""
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class ErrorLine(Struct):
    """The last line of an answer that failed after it had begun."""

    error: str


class OllamaDialect:
    def __init__(self, body: OllamaChatRequest, times: Times) -> None:
        self._body = body
        self._times = times
        self._calls = 0
        self._call: ToolCallStarted | None = None
        self._arguments: list[str] = []

    def render(self, event: Event, /) -> Iterable[Frame]:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                yield from self._written_call()
                yield Frame(self._line(ChatMessage(content=text), logprobs))
            case ReasoningDelta(text=text):
                yield from self._written_call()
                yield Frame(self._line(ChatMessage(thinking=text)))
            case ToolCallStarted():
                yield from self._written_call()
                self._call = event
            case ToolCallDelta(arguments=arguments):
                self._arguments.append(arguments)
            case Finished():
                yield from self._written_call(event)
                yield Frame(self._with_end(self._line(ChatMessage()), event))
            case Started() | Restarted():
                pass

    def error(self, exc: Exception) -> Iterable[Frame]:
        return (Frame(ErrorLine(to_failure(exc).body.error.message)),)

    def whole(self, answer: Answer) -> OllamaChat:
        message = ChatMessage(
            content=answer.text,
            thinking=answer.reasoning or UNSET,
            tool_calls=to_calls(answer.tool_calls, answer.finished) or UNSET,
        )
        return self._with_end(self._line(message, answer.logprobs), answer.finished)

    def to_param(self, feature: str | None) -> str | None:
        return to_param(feature, self._body)

    def without_words(self, reason: Literal["load", "unload"]) -> OllamaChat:
        """The answer to a chat without messages."""
        return replace(self._line(ChatMessage()), done=True, done_reason=reason)

    def _written_call(self, end: Finished | None = None) -> Iterable[Frame]:
        """Ollama's calls are whole: one is told as soon as something else follows it."""
        if self._call is None:
            return
        call = ToolCall(self._call.id, self._call.name, "".join(self._arguments))
        self._call, self._arguments = None, []
        for told in to_calls([call], end, self._calls):
            self._calls += 1
            yield Frame(self._line(ChatMessage(tool_calls=[told])))

    def _line(
        self, message: ChatMessage, logprobs: Sequence[TokenLogprob] | None = None
    ) -> OllamaChat:
        return OllamaChat(
            model=self._body.model,
            created_at=datetime.now(UTC),
            message=message,
            logprobs=UNSET if logprobs is None else [_logprob(each) for each in logprobs],
        )

    def _with_end(self, line: OllamaChat, finished: Finished) -> OllamaChat:
        timings = self._times.timings(finished)
        return replace(
            line,
            done=True,
            done_reason="length" if finished.reason == "length" else "stop",
            total_duration=round(self._times.total * 1e9),
            load_duration=timings.load,
            prompt_eval_count=finished.usage.prompt_tokens,
            prompt_eval_duration=timings.prompt,
            eval_count=finished.usage.completion_tokens,
            eval_duration=timings.answer,
        )


def to_calls(calls: Iterable[ToolCall], end: Finished | None, first: int = 0) -> list[Call]:
    """Without the one that the token limit has cut: half of an object is none.

    Raises:
        BadUpstreamError: arguments are no object, though nothing has cut them.
    """
    told: list[Call] = []
    for call in calls:
        arguments = _arguments(call)
        if arguments is not None:
            index = first + len(told)
            told.append(Call(call.id, CalledFunction(index, call.name, arguments)))
        elif end is None or end.reason != "length":
            raise BadUpstreamError(f"The model called '{call.name}' without a JSON object.")
    return told


def _arguments(call: ToolCall) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(call.arguments.strip() or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _logprob(token: TokenLogprob) -> Logprob:
    tops = [TopLogprob(top.token, top.logprob, _bytes(top)) for top in token.top]
    return Logprob(token.token, token.logprob, _bytes(token), tops or UNSET)


def _bytes(token: TokenLogprob) -> tuple[int, ...] | UnsetType:
    return UNSET if token.bytes is None else token.bytes
