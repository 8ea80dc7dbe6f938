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
    """One answer as it comes in; it knows the calls so far."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        """Of the calls."""

    def events(self, line: Line) -> Sequence[Event]:
        """The events of one line, in order; `Finished` ends those of the last line.

        Raises:
            BadUpstreamError: the line is neither text, nor a call, nor the end.
        """
        if (text := to_text(line)) is not None:
            return (TextDelta(text),)
        message = line.message or _raw_message(line)
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
            events.append(TextDelta(message.content or "", known))
        for call in message.tool_calls or ():
            events += self._call(call)

    def _call(self, call: FunctionCall) -> Sequence[Event]:
        # Counted here: there were servers that gave every call the index 0.
        index = len(self._ids)
        self._ids.append(self._new_id(call))
        return (
            ToolCallStarted(index, self._ids[index], call.function.name),
            ToolCallDelta(index, _arguments(call.function)),
        )

    def _new_id(self, call: FunctionCall) -> str:
        """Its own, unless an earlier call has it: nothing else joins a result to its call."""
        if call.id and call.id not in self._ids:
            return call.id
        return f"call_{uuid4().hex[:24]}"

    def _reason(self, line: Line) -> FinishReason:
        # First: of an answer cut by the limit, the last call may be missing.
        if line.done_reason == "length":
            return "length"
        return "tool_calls" if self._ids else "stop"


def to_text(line: Line) -> str | None:
    """What a line says that says nothing but text, as nearly all do."""
    if line.done or line.error is not None or line.logprobs:
        return None
    message = line.message or _raw_message(line)
    if message is None or message.thinking or message.tool_calls or not message.content:
        return None
    return message.content


def _raw_message(line: Line) -> AnswerMessage | None:
    if line.response is None:
        return None
    return AnswerMessage(content=line.response, thinking=line.thinking)


def _arguments(function: Function) -> str:
    """The arguments as JSON text.

    Raises:
        BadUpstreamError: they are neither an object nor a string that holds one.
    """
    value = bytes(function.arguments)
    if value.startswith(b"{"):  # Decoded with the line, so there is no doubt about the rest of it.
        return value.decode()
    if value.startswith(b'"') and _is_object(text := msgspec.json.decode(value, type=str)):
        return text
    raise BadUpstreamError("Ollama's tool call has no arguments.")


def _is_object(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return False
    return True


def _to_logprobs(logprobs: tuple[Logprob, ...]) -> tuple[TokenLogprob, ...]:
    return tuple(_to_logprob(each) for each in logprobs)


def _to_logprob(logprob: Logprob) -> TokenLogprob:
    return TokenLogprob(
        token=logprob.token,
        logprob=logprob.logprob,
        bytes=logprob.bytes,
        top=tuple(_to_logprob(other) for other in logprob.top_logprobs or ()),
    )


def _usage(line: Line) -> Usage:
    return Usage(prompt_tokens=line.prompt_eval_count or 0, completion_tokens=line.eval_count or 0)


def _timings(line: Line) -> Timings | None:
    if not line.eval_duration:
        return None
    return Timings(
        load=line.load_duration or 0,
        prompt=line.prompt_eval_duration or 0,
        answer=line.eval_duration,
    )
