"""From sampled tokens to events: one answer, put together on the event loop.

Runs once a token. A plain chat takes the short way: characters, stop strings, one delta.
"""

from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from secrets import token_hex

from adapters.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.mlx.output.detokenize import StopMatcher, Vocabulary
from adapters.mlx.output.logprobs import to_logprob, to_prompt_logprobs
from adapters.mlx.output.parse import SectionReader, create_reader, visible_texts
from adapters.mlx.output.reasoning import Reasoning
from adapters.mlx.output.tool_calls import ToolSyntax
from adapters.mlx.output.tool_calls.output_pieces import Piece
from adapters.mlx.sequence import Finish, PromptRead, Sampled, Sequence
from adapters.request import Tool


@dataclass(frozen=True)
class Reading:
    """What has to be known of a request to read its answers."""

    vocabulary: Vocabulary
    stop: tuple[str, ...] = ()
    reasoning: Reasoning | None = None
    """None also where a raw prompt is continued: all of that is text."""
    is_open: bool = False
    """The prompt has opened the thinking already."""
    is_answering: bool = False
    """The prompt has opened the channel of the text for the user already."""
    syntax: ToolSyntax | None = None
    tools: tuple[Tool, ...] = ()
    """The functions that may be called; without any nothing is read as a call."""
    echo: str = ""
    """The prompt, where the answer is to begin with it."""

    def controls(self) -> frozenset[str]:
        taught = self.syntax if self.tools else None
        return self.vocabulary.find_control_tokens(visible_texts(self.reasoning, taught))

    def reader(self, controls: frozenset[str]) -> SectionReader | None:
        return create_reader(
            self.reasoning,
            is_open=self.is_open,
            is_answering=self.is_answering,
            syntax=self.syntax,
            tools=self.tools,
            hidden=tuple(controls),
        )


async def read(sequence: Sequence, reading: Reading) -> AsyncGenerator[Event]:
    """The events of one choice, up to its `Finished`.

    Raises:
        BackendError: the engine gave this sequence up.
    """
    answer = Answer(reading, sequence)
    if sequence.reports_prompt:
        for event in answer.add_prompt(await sequence.prompt_read()):
            yield event
    elif reading.echo:
        yield TextDelta(reading.echo, choice=sequence.choice)
    while not answer.finished:
        for event in answer.add(await sequence.next()):
            yield event


class Answer:
    """One choice of one request. `add` its tokens in order until `finished`."""

    def __init__(self, reading: Reading, sequence: Sequence) -> None:
        controls = reading.controls()
        self._vocabulary = reading.vocabulary
        self._echo = reading.echo
        self._text = reading.vocabulary.detokenizer(controls)
        self._stop = StopMatcher(reading.stop)
        self._reader = reading.reader(controls)
        self._sequence = sequence
        self._choice = sequence.choice
        self._ledger = Ledger() if sequence.top_logprobs is not None else None
        self._count = 0
        self._reasoning = None if reading.reasoning is None else 0
        self._calls = 0
        self._complete = 0
        self.finished = False

    def add_prompt(self, read: PromptRead) -> list[Event]:
        """The prompt as the beginning of the answer, and perhaps all of it."""
        reported = None
        if self._ledger is not None:
            prompt = self._sequence.prompt
            reported = to_prompt_logprobs(self._vocabulary, prompt, read.tokens, self._echo)
        events: list[Event] = [TextDelta(self._echo, reported, self._choice)]
        if read.finish is not None:
            events.append(self._finish("length", None))
        return events

    def add(self, sampled: Sampled) -> list[Event]:
        """The events of one token, the last of them `Finished` where it ends the answer."""
        self._count += 1
        text = "" if sampled.finish == "stop" else self._text.add(sampled.token)
        if self._ledger is not None and sampled.finish != "stop":
            self._note(self._ledger, sampled, len(text))
        if sampled.finish is not None:
            text += self._text.finish()
        if self._reader is None:
            events, matched = self._show(text, text, last=sampled.finish is not None)
        else:
            events, matched = self._read(self._reader, text, last=sampled.finish is not None)
        if matched is not None or sampled.finish is not None:
            if self._sequence.reports_prompt:
                events += self._report_silent(sampled)
            events.append(self._finish(sampled.finish, matched))
        return events

    def _read(
        self, reader: SectionReader, text: str, *, last: bool
    ) -> tuple[list[Event], str | None]:
        before = reader.in_reasoning
        pieces = reader.feed(text) + (reader.finish() if last else [])
        if self._reasoning is not None and (before or reader.in_reasoning):
            self._reasoning += 1
        events: list[Event] = []
        for piece in pieces:
            shown, matched = self._render(piece)
            events += shown
            if matched is not None:
                return events, matched
        if last:
            shown, matched = self._show("", "", last=True)
            events += shown
        return events, None

    def _render(self, piece: Piece) -> tuple[list[Event], str | None]:
        match piece.kind:
            case "content":
                return self._show(piece.text, piece.source, last=False)
            case "reasoning":
                events: list[Event] = [ReasoningDelta(piece.text, self._choice)]
            case "call":
                # A stop string cannot reach into a call: what was held for one is shown first.
                events, _ = self._show("", "", last=True)
                name = f"call_{token_hex(12)}"
                events.append(ToolCallStarted(self._calls, name, piece.text, self._choice))
                self._calls += 1
            case "arguments":
                events = [ToolCallDelta(self._calls - 1, piece.text, self._choice)]
            case "end":
                self._complete += 1
                events = []
            case "marker":
                events = []
        if self._ledger is not None:
            self._ledger.drop(len(piece.source))
        return events, None

    def _show(self, text: str, source: str, *, last: bool) -> tuple[list[Event], str | None]:
        shown, matched = self._stop.feed(text)
        if last and matched is None:
            shown += self._stop.flush()
        if self._ledger is None:
            return ([TextDelta(shown, None, self._choice)] if shown else []), matched
        self._ledger.keep(len(source))
        entries = self._ledger.take(len(shown), last=last and matched is None)
        if not shown and not entries:
            return [], matched
        return [TextDelta(shown, entries, self._choice)], matched

    def _note(self, ledger: "Ledger", sampled: Sampled, length: int) -> None:
        if self._vocabulary.bytes_of(sampled.token) or length:
            ledger.add(to_logprob(self._vocabulary, sampled), length)

    def _report_silent(self, sampled: Sampled) -> list[Event]:
        """The last token where it wrote nothing: who has the prompt reported counts on it."""
        if self._ledger is None or (
            sampled.finish != "stop" and self._vocabulary.bytes_of(sampled.token)
        ):
            return []
        return [TextDelta("", (to_logprob(self._vocabulary, sampled),), self._choice)]

    def _finish(self, finish: Finish | None, matched: str | None) -> Finished:
        self.finished = True
        usage = Usage(
            prompt_tokens=len(self._sequence.prompt),
            completion_tokens=self._count,
            cached_tokens=self._sequence.cached_tokens,
            reasoning_tokens=self._reasoning,
        )
        cut = matched is None and finish == "length"
        reason: FinishReason = "length" if cut else "tool_calls" if self._complete else "stop"
        return Finished(reason, usage, matched, self._choice)


class Ledger:
    """Which token wrote which characters, so that each is reported with its text and once.

    A token begins at a place in the text and may have no characters of its own: the first bytes
    of an emoji, say, which are reported with the token that completes it.
    """

    def __init__(self) -> None:
        self._written = 0
        """Characters of the model's text that tokens were noted for."""
        self._read = 0
        """… that were found to be content, or not."""
        self._content = 0
        """Characters of content so far."""
        self._shown = 0
        self._open: deque[tuple[int, int, TokenLogprob]] = deque()
        """Begin and end in the model's text."""
        self._kept: deque[tuple[int, TokenLogprob]] = deque()
        """Begin in the content."""

    def add(self, entry: TokenLogprob, length: int) -> None:
        self._open.append((self._written, self._written + length, entry))
        self._written += length

    def drop(self, length: int) -> None:
        """The next `length` characters are no content."""
        self._read += length
        while self._open and self._open[0][1] <= self._read and self._open[0][0] < self._read:
            self._open.popleft()

    def keep(self, length: int) -> None:
        """The next `length` characters are content."""
        until = self._read + length
        while self._open and (self._open[0][0] < until):
            begin, _, entry = self._open.popleft()
            self._kept.append((self._content + max(begin - self._read, 0), entry))
        self._read, self._content = until, self._content + length

    def take(self, length: int, *, last: bool) -> tuple[TokenLogprob, ...]:
        """The tokens of the next `length` characters of content; of all that is left if `last`."""
        self._shown += length
        taken: list[TokenLogprob] = []
        while self._kept and (last or self._kept[0][0] < self._shown):
            taken.append(self._kept.popleft()[1])
        return tuple(taken)
