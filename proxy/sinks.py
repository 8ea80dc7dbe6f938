"""Sinks of the server: one checks the order of a backend's events, one collects an answer."""

import asyncio
from collections import defaultdict

from msgspec import Struct

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
from adapters.sink import Sink
from proxy.record import Attempt

_EVENTS_A_TURN = 256
"""Events of a collected answer after which a backend that never waits has to yield."""


class CheckedSink:
    """Checks the order of a backend's events, fills its attempt, and passes them on.

    `Started` comes first and once; each choice ends once, and nothing of it follows.
    """

    def __init__(self, sink: Sink, attempt: Attempt, *, restarts: bool = False) -> None:
        """`restarts`: the reader has events of an earlier attempt, which are void."""
        self._sink = sink
        self._pass_on = sink.write
        self.drain = sink.drain
        self._attempt = attempt
        self._restarts = restarts
        self._open = set(range(attempt.choices))
        self._flowing: set[int] = set()
        """The open choices, once the first piece is recorded: their text needs no further check."""
        self.started = False

    def write(self, event: Event, /) -> bool:
        if type(event) is TextDelta and event.choice in self._flowing:
            self._attempt.pieces += 1
            return self._pass_on(event)
        return self._check(event)

    def _check(self, event: Event) -> bool:
        if isinstance(event, Started):
            if self.started:
                raise _out_of_order(event)
            self.started = True
        elif not self.started or event.choice not in self._open:
            raise _out_of_order(event)
        self._attempt.note(event)
        if isinstance(event, PromptProgress):
            return False  # No dialect has an event for it.
        if isinstance(event, Finished):
            self._open.remove(event.choice)
        elif isinstance(event, Started) and self._restarts:
            return self._void(event)
        elif isinstance(event, Started | Restarted):
            self._flowing = set()
        else:
            self._flowing = self._open
        return self._pass_on(event)

    def _void(self, event: Started) -> bool:
        behind = [self._pass_on(Restarted(event.context, choice)) for choice in self._open]
        return any(behind)

    def end(self) -> None:
        """Check that the backend has ended every choice.

        Raises:
            BadUpstreamError: it has not.
        """
        if self._open:
            raise BadUpstreamError("The backend stopped in the middle of its answer.")


def _out_of_order(event: Event) -> BadUpstreamError:
    return BadUpstreamError(f"The backend sent {type(event).__name__} out of order.")


class TextPart(Struct, frozen=True):
    """A text of an answer, as far as nothing else comes between."""

    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


class ReasoningPart(Struct, frozen=True):
    text: str


AnswerPart = TextPart | ReasoningPart | ToolCall


class Answer(Struct):
    """All events of a choice in one piece."""

    finished: Finished
    parts: tuple[AnswerPart, ...]
    """The parts in the order in which the model wrote them, which is that of a stream."""

    @property
    def text(self) -> str:
        """All texts, joined."""
        return "".join([part.text for part in self.parts if isinstance(part, TextPart)])

    @property
    def reasoning(self) -> str:
        """All reasoning, joined."""
        return "".join([part.text for part in self.parts if isinstance(part, ReasoningPart)])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple([part for part in self.parts if isinstance(part, ToolCall)])

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        known = [
            part.logprobs
            for part in self.parts
            if isinstance(part, TextPart) and part.logprobs is not None
        ]
        return tuple([token for logprobs in known for token in logprobs]) if known else None


class Collector:
    """A sink that keeps an answer until its end."""

    def __init__(self) -> None:
        self._choices: defaultdict[int, _Choice] = defaultdict(_Choice)
        self._events = 0

    def write(self, event: Event, /) -> bool:
        if isinstance(event, Restarted):
            self._choices.pop(event.choice, None)
        elif not isinstance(event, Started | PromptProgress):
            self._choices[event.choice].add(event)
        self._events += 1
        return self._events % _EVENTS_A_TURN == 0

    async def drain(self) -> None:
        """Give other tasks a turn; an answer that is sent whole has no other limit."""
        await asyncio.sleep(0)

    def answers(self) -> tuple[Answer, ...]:
        """The choices that have ended, in order."""
        ended = [choice for _, choice in sorted(self._choices.items())]
        return tuple(choice.answer() for choice in ended)


class HeldEnd:
    """Passes an answer on without its end, and collects it: the end is sent once it was stored."""

    def __init__(self, sink: Sink) -> None:
        self._pass_on = sink.write
        self.drain = sink.drain
        self._collector = Collector()
        self.answers = self._collector.answers
        self._ends: list[Finished] = []

    def write(self, event: Event, /) -> bool:
        self._collector.write(event)
        if isinstance(event, Finished):
            self._ends.append(event)
            return False
        return self._pass_on(event)

    def release(self) -> None:
        """Send the ends of all choices."""
        for end in self._ends:
            self._pass_on(end)


class _Choice:
    """The events of one choice, as parts that grow."""

    def __init__(self) -> None:
        self._parts: list[_Growing] = []
        self._calls: dict[int, _Growing] = {}
        self._finished: Finished | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                part = self._part_for(TextDelta)
                part.pieces.append(text)
                if logprobs is not None:
                    part.logprobs = part.logprobs if part.logprobs is not None else []
                    part.logprobs.extend(logprobs)
            case ReasoningDelta(text=text):
                self._part_for(ReasoningDelta).pieces.append(text)
            case ToolCallStarted():
                self._calls[event.index] = _Growing(event)
                self._parts.append(self._calls[event.index])
            case ToolCallDelta():
                self._calls[event.index].pieces.append(event.arguments)
            case Finished():
                self._finished = event
            case Started() | Restarted() | PromptProgress():
                pass

    def _part_for(self, kind: type[TextDelta] | type[ReasoningDelta]) -> "_Growing":
        """Return the last part if it is of `kind`, else a new one."""
        if not self._parts or self._parts[-1].begin is not kind:
            self._parts.append(_Growing(kind))
        return self._parts[-1]

    def answer(self) -> Answer:
        if self._finished is None:
            raise BadUpstreamError("The backend stopped in the middle of its answer.")
        return Answer(self._finished, tuple([part.grown() for part in self._parts]))


class _Growing(Struct):
    """A part of an answer that arrives in pieces."""

    begin: ToolCallStarted | type[TextDelta] | type[ReasoningDelta]
    """The event that began a call, or the type of the events of a text."""
    pieces: list[str] = []
    logprobs: list[TokenLogprob] | None = None

    def grown(self) -> AnswerPart:
        text = "".join(self.pieces)
        if isinstance(self.begin, ToolCallStarted):
            return ToolCall(self.begin.id, self.begin.name, text)
        if self.begin is ReasoningDelta:
            return ReasoningPart(text)
        return TextPart(text, None if self.logprobs is None else tuple(self.logprobs))
