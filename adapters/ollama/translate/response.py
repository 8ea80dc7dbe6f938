"""Translate the lines of Ollama's answers to events."""

from collections.abc import Callable, Sequence
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
from adapters.ollama.errors import UNEXPECTED
from adapters.ollama.wire import AnswerMessage, Function, FunctionCall, Line, Logprob

Emit = Callable[[Event], object]
"""Takes an event; the result is true where the reader is behind, as that of `Sink.write`."""


class Answer:
    """Translates the lines of one answer, and writes their events as they come.

    The end is not written: `finished` holds it, for what checks the whole answer.
    """

    def __init__(self, *, one_call: bool = False) -> None:
        """`one_call`: further calls are read to the end, for what they cost, and not written."""
        self.finished = Finished("stop", Usage(prompt_tokens=0, completion_tokens=0))
        """The end, once the last line was read."""
        self.emit: Emit = bool
        """Set before the first line is read."""
        self._one_call = one_call
        self._ids: list[str] = []
        """Ids of the calls so far."""
        self._thoughts = 0
        """Lines with reasoning: Ollama sends one for nearly every token, and no count of them."""
        self._waiting: list[Logprob] = []
        """Reported tokens without text so far: the next line tells which part they belong to."""

    def read(self, line: Line) -> object:
        """Write the events of `line`; true where the reader is behind.

        Raises:
            BadUpstreamError: the line is neither text, nor a call, nor the end.
        """
        message = line.message
        if message is not None and not (line.done or message.tool_calls or line.logprobs):
            # Nearly all lines: one piece of text, or of reasoning.
            if message.content and not message.thinking:
                return self.emit(TextDelta(message.content))
            if message.thinking and not message.content:
                self._thoughts += 1
                return self.emit(ReasoningDelta(message.thinking))
        elif (
            message is None and line.response and not (line.done or line.thinking or line.logprobs)
        ):
            return self.emit(TextDelta(line.response))
        return self._read_all(line)

    def _read_all(self, line: Line) -> object:
        message = line.message or _raw_message(line)
        if message is None and not line.done:
            raise BadUpstreamError(UNEXPECTED)
        events = () if message is None else self._events(message, line)
        behind: object = False
        for event in events:
            behind = self.emit(event) or behind
        if line.done:
            self.finished = Finished(
                self._reason(line),
                Usage(
                    prompt_tokens=line.prompt_eval_count or 0,
                    completion_tokens=line.eval_count or 0,
                    reasoning_tokens=min(self._thoughts, line.eval_count or 0) or None,
                ),
                timings=_timings(line),
            )
        return behind

    def _events(self, message: AnswerMessage, line: Line) -> Sequence[Event]:
        events: list[Event] = []
        self._waiting += line.logprobs or ()
        if message.thinking:
            self._thoughts += 1
            self._waiting.clear()
            events.append(ReasoningDelta(message.thinking))
        if message.content or (line.done and self._waiting):
            text = message.content or ""
            report = _to_logprobs(_tail(self._waiting, text)) if self._waiting else None
            self._waiting.clear()
            events.append(TextDelta(text, report))
        for call in message.tool_calls or ():
            self._waiting.clear()
            events += self._call(call)
        return events

    def _call(self, call: FunctionCall) -> Sequence[Event]:
        # Numbered here: there were servers that gave every call the index 0.
        index = len(self._ids)
        self._ids.append(self._new_id(call))
        started = ToolCallStarted(index, self._ids[index], call.function.name)
        delta = ToolCallDelta(index, _arguments(call.function))
        return () if self._one_call and index > 0 else (started, delta)

    def _new_id(self, call: FunctionCall) -> str:
        """Keep the call's own id unless an earlier call has it: results are joined by it."""
        if call.id and call.id not in self._ids:
            return call.id
        return f"call_{uuid4().hex[:24]}"

    def _reason(self, line: Line) -> FinishReason:
        # First: in an answer cut by the limit the last call may be missing.
        if line.done_reason == "length":
            return "length"
        return "tool_calls" if self._ids else "stop"


def _raw_message(line: Line) -> AnswerMessage | None:
    if line.response is None:
        return None
    return AnswerMessage(content=line.response, thinking=line.thinking)


def _arguments(function: Function) -> str:
    """Return the arguments as JSON text.

    Raises:
        BadUpstreamError: they are neither an object nor a string that holds one.
    """
    value = bytes(function.arguments)
    if value.startswith(b"{"):  # Valid JSON, as the line that it was decoded with.
        return value.decode()
    if value.startswith(b'"') and _is_object(text := msgspec.json.decode(value, type=str)):
        return text
    raise BadUpstreamError("Unexpected response from Ollama: a tool call without arguments.")


def _is_object(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return False
    return True


def _tail(tokens: list[Logprob], text: str) -> list[Logprob]:
    """Return the last of `tokens` that have all bytes of `text`: those before wrote a marker, or
    white space, that the parser of the model keeps to itself. All, where there is no text."""
    missing = len(text.encode())
    at = len(tokens) if text else 0
    while at and missing > 0:
        at -= 1
        missing -= len(tokens[at].bytes or tokens[at].token.encode())
    return tokens[at:]


def _to_logprobs(logprobs: Sequence[Logprob]) -> tuple[TokenLogprob, ...]:
    """One function for all of a line: a call for each alternative would be most of its cost."""
    report: list[TokenLogprob] = []
    for token in logprobs:
        top: list[TokenLogprob] = []
        for other in token.top_logprobs or ():
            top.append(TokenLogprob(token=other.token, logprob=other.logprob, bytes=other.bytes))
        report.append(
            TokenLogprob(
                token=token.token, logprob=token.logprob, bytes=token.bytes, top=tuple(top)
            )
        )
    return tuple(report)


def _timings(line: Line) -> Timings | None:
    if not line.eval_duration:
        return None
    return Timings(
        load=line.load_duration or 0,
        prompt=line.prompt_eval_duration or 0,
        answer=line.eval_duration,
    )
