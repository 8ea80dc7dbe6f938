"""From the lines of Ollama's answer to Tandem's events."""

from collections.abc import Sequence
from uuid import uuid4

import msgspec

from adapters.errors import BadUpstreamError
from adapters.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.ollama.wire import AnswerMessage, Function, FunctionCall, Line, Logprob


class Answer:
    """One answer as it comes in; it knows how many tools were called so far."""

    def __init__(self) -> None:
        self._calls = 0

    def events(self, line: Line) -> Sequence[Event]:
        """The events of one line, in order; `Finished` ends those of the last line.

        Raises:
            BadUpstreamError: the line is neither text, nor a call, nor the end.
        """
        message = line.message or _raw_message(line)
        if message is not None and _is_text(message, line):  # Nearly all are.
            return (TextDelta(message.content),)
        events: list[Event] = []
        if message is not None:
            self._add(message, line.logprobs, events)
        elif not line.done:
            raise BadUpstreamError("Ollama's answer makes no sense.")
        if line.done:
            timings = _timings(line)
            events.append(Finished(self._reason(line), _usage(line), timings=timings))
        return events

    def _add(
        self, message: AnswerMessage, logprobs: tuple[Logprob, ...] | None, events: list[Event]
    ) -> None:
        if message.thinking:
            events.append(ReasoningDelta(message.thinking))
        if message.content or (logprobs and not message.thinking):
            known = None if logprobs is None else _to_logprobs(logprobs)
            events.append(TextDelta(message.content, known))
        for call in message.tool_calls or ():
            events += self._call(call)

    def _call(self, call: FunctionCall) -> Sequence[Event]:
        # Counted here: there were servers that gave every call the index 0.
        index, self._calls = self._calls, self._calls + 1
        return (
            ToolCallStarted(index, call.id or f"call_{uuid4().hex[:24]}", call.function.name),
            ToolCallDelta(index, _arguments(call.function)),
        )

    def _reason(self, line: Line) -> FinishReason:
        # First: of an answer cut by the limit, the last call may be missing.
        if line.done_reason == "length":
            return "length"
        return "tool_calls" if self._calls else "stop"


def _is_text(message: AnswerMessage, line: Line) -> bool:
    """Nothing but."""
    other = line.done or line.logprobs or message.thinking or message.tool_calls
    return not other and message.content != ""


def _raw_message(line: Line) -> AnswerMessage | None:
    if line.response is None:
        return None
    return AnswerMessage(content=line.response, thinking=line.thinking or "")


def _arguments(function: Function) -> str:
    """The arguments as JSON text.

    Raises:
        BadUpstreamError: they are neither an object nor a string.
    """
    value = bytes(function.arguments)
    if value.startswith(b'"'):
        return msgspec.json.decode(value, type=str)
    if not value.startswith(b"{"):
        raise BadUpstreamError("Ollama's tool call has no arguments.")
    return value.decode()


def _to_logprobs(logprobs: tuple[Logprob, ...]) -> tuple[TokenLogprob, ...]:
    return tuple(_to_logprob(each) for each in logprobs)


def _to_logprob(logprob: Logprob) -> TokenLogprob:
    return TokenLogprob(
        token=logprob.token,
        logprob=logprob.logprob,
        bytes=logprob.bytes,
        top=tuple(_to_logprob(other) for other in logprob.top_logprobs),
    )


def _usage(line: Line) -> Usage:
    return Usage(prompt_tokens=line.prompt_eval_count, completion_tokens=line.eval_count)


def _timings(line: Line) -> Timings | None:
    if not line.eval_duration:
        return None
    return Timings(
        load=line.load_duration, prompt=line.prompt_eval_duration, answer=line.eval_duration
    )
