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


class Answer(Struct):
    """All events of a choice in one piece."""

    finished: Finished
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...] | None


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
    """The events of one choice."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, tuple[ToolCallStarted, list[str]]] = {}
        self._logprobs: list[TokenLogprob] | None = None
        self._finished: Finished | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                self._text.append(text)
                if logprobs is not None:
                    self._logprobs = self._logprobs if self._logprobs is not None else []
                    self._logprobs.extend(logprobs)
            case ReasoningDelta(text=text):
                self._reasoning.append(text)
            case ToolCallStarted():
                self._calls[event.index] = (event, [])
            case ToolCallDelta():
                self._calls[event.index][1].append(event.arguments)
            case Finished():
                self._finished = event
            case Started() | Restarted() | PromptProgress():
                pass

    def answer(self) -> Answer:
        if self._finished is None:
            raise BadUpstreamError("The backend stopped in the middle of its answer.")
        calls = [ToolCall(call.id, call.name, "".join(a)) for call, a in self._calls.values()]
        return Answer(
            self._finished,
            "".join(self._text),
            "".join(self._reasoning),
            tuple(calls),
            None if self._logprobs is None else tuple(self._logprobs),
        )
