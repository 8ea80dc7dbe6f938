"""What a backend says, held to the contract: events -> one `Answer` for each choice."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from anyio import move_on_after
from msgspec import Struct

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
from adapters.shortcut import Shortcut

CLOSING = 5.0
"""Seconds a backend has to stop its work once nobody wants it."""
_BREATH = 16
"""Events after which others get a turn, even if the source never waits."""


class Answer(Struct):
    """All events of a choice in one piece."""

    finished: Finished
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...] | None


class _Pieces:
    """Gathers an `Answer`."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, tuple[ToolCallStarted, list[str]]] = {}
        self._logprobs: list[TokenLogprob] | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                self._text.append(text)
                self._add_logprobs(logprobs)
            case ReasoningDelta(text=text):
                self._reasoning.append(text)
            case ToolCallStarted():
                self._calls[event.index] = (event, [])
            case ToolCallDelta():
                self._calls[event.index][1].append(event.arguments)
            case Restarted():
                self._clear()
            case Started() | Finished():
                pass

    def take(self, text: str) -> bool:
        self._text.append(text)
        return True

    def _add_logprobs(self, logprobs: tuple[TokenLogprob, ...] | None) -> None:
        if logprobs is not None:
            self._logprobs = self._logprobs if self._logprobs is not None else []
            self._logprobs.extend(logprobs)

    def answer(self, finished: Finished) -> Answer:
        return Answer(
            finished,
            "".join(self._text),
            "".join(self._reasoning),
            tuple(ToolCall(c.id, c.name, "".join(args)) for c, args in self._calls.values()),
            None if self._logprobs is None else tuple(self._logprobs),
        )


async def collect(
    events: AsyncGenerator[Event], shortcut: Shortcut | None = None
) -> tuple[Answer, ...]:
    """All of `events`, which `each` has checked, and the texts of an only choice that take the
    `shortcut`: an answer for each choice, in order.

    Raises:
        BackendError: whatever the backend raised, before `Started` or after.
    """
    pieces: dict[int, _Pieces] = defaultdict(_Pieces)
    ended: dict[int, Finished] = {}
    if shortcut is not None:
        shortcut.take = pieces[0].take
    async with closing(events):
        async for event in events:
            if isinstance(event, Started):
                continue
            pieces[event.choice].add(event)
            if isinstance(event, Finished):
                ended[event.choice] = event
    return tuple(pieces[choice].answer(ended[choice]) for choice in sorted(ended))


async def held(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """`events`, none of them before the last has come: so long another may answer in their place.

    Raises:
        BackendError: whatever the backend raised, and nothing has been given away.
    """
    async with closing(events):
        every = [event async for event in events]
    for event in every:
        yield event


class Observer(Protocol):
    """Who looks at one answer as it passes: entered before its first event, left after the last."""

    @property
    def is_content(self) -> bool:
        """Of mere texts it has seen enough."""
        ...

    def see(self, event: Event) -> None: ...

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...


class _Unobserved:
    is_content = True

    def see(self, event: Event) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_UNOBSERVED = _Unobserved()


async def each(
    events: AsyncGenerator[Event], choices: int = 1, observer: Observer = _UNOBSERVED
) -> AsyncGenerator[Event]:
    """`events`, held to the contract: `Started` first, every choice ended once, turns for others.

    Raises:
        BadUpstreamError: an event is missing, comes out of order, or belongs to no choice.
    """
    open_choices = set(range(choices))
    count = 0
    with observer:
        async with closing(events):
            async for event in events:
                if isinstance(event, Started):
                    if count:
                        raise _out_of_order(event)
                elif not count or event.choice not in open_choices:
                    raise _out_of_order(event)
                elif isinstance(event, Finished):
                    open_choices.remove(event.choice)
                # Nearly all events are texts after the first: those cost nothing here.
                if not (observer.is_content and isinstance(event, TextDelta)):
                    observer.see(event)
                yield event
                count += 1
                if count % _BREATH == 0:
                    await asyncio.sleep(0)
        if open_choices:
            raise BadUpstreamError("The backend stopped in the middle of its answer.")


def _out_of_order(event: Event) -> BadUpstreamError:
    return BadUpstreamError(f"The backend sent {type(event).__name__} out of order.")


class closing:
    """Around the reading of `events`: at its end the work behind them is stopped, even in a task
    that is being cancelled."""

    def __init__(self, events: AsyncGenerator[Any]) -> None:
        self._events = events

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        if getattr(self._events, "ag_frame", self._events) is None:  # They have ended.
            return
        # Litestar cancels through anyio, which repeats itself at every await that is not shielded.
        with move_on_after(CLOSING, shield=True):
            await self._events.aclose()
