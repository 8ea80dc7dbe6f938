"""Turn sampled tokens into events, on the event loop, and write them to the sink of the request.

The engine's callback runs through here once a token, without a turn of any task. A plain chat costs
a lookup, a decode and a `write`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from time import perf_counter_ns

from msgspec.structs import replace

from adapters.errors import BackendBusyError, BackendError
from adapters.events import (
    Event,
    Finished,
    FinishReason,
    PromptProgress,
    ReasoningDelta,
    Started,
    TextDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.mlx.engine.engine import Engine
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.output.logprobs import (
    TokenLedger,
    to_logprob,
    to_prompt_logprobs,
    without_space,
)
from adapters.mlx.output.parse import SectionReader, create_reader, visible_texts
from adapters.mlx.output.reasoning import Reasoning
from adapters.mlx.output.spelled_markers import SpelledMarkers
from adapters.mlx.output.tool_calls import ToolSyntax
from adapters.mlx.output.tool_calls.output_pieces import Piece
from adapters.mlx.sequence import ChunkRead, Finish, Post, PromptRead, Sampled, Sequence
from adapters.request import Tool
from adapters.stop_strings import StopMatcher

Write = Callable[[Event], object]


@dataclass(frozen=True)
class Reading:
    """The facts of a request that decide how its tokens are read."""

    vocabulary: Vocabulary
    stop: tuple[str, ...] = ()
    reasoning: Reasoning | None = None
    """`None` also for a raw prompt: its answer is all text."""
    is_open: bool = False
    """The prompt has opened the reasoning already."""
    is_answering: bool = False
    """The prompt has opened the channel of the final text already."""
    syntax: ToolSyntax | None = None
    tools: tuple[Tool, ...] = ()
    """The functions that may be called; without any, no text is read as a call."""
    calls_only: bool = False
    """A call is forced: text beside calls and reasoning is the beginning of one that was cut."""
    echo: str = ""
    """The prompt, where the answer is to begin with it."""
    keeps_space: bool = False
    """A space before the first word is part of the answer, which continues a text or has a form."""

    def controls(self) -> frozenset[str]:
        """Return the control tokens that the reader has to see as text."""
        syntax = self.syntax if self.tools else None
        return self.vocabulary.find_control_tokens(visible_texts(self.reasoning, syntax))

    def reader(self, controls: frozenset[str]) -> SectionReader | None:
        return create_reader(
            self.reasoning,
            is_open=self.is_open,
            is_answering=self.is_answering,
            syntax=self.syntax,
            tools=self.tools,
            hidden=tuple(controls),
        )


_NEIGHBOURS = 8
"""Tokens before an answer that may change how its first one is decoded."""


class Answers:
    """The answers of one request: written to its sink as the engine delivers their tokens."""

    def __init__(
        self,
        engine: Engine,
        sequences: list[Sequence],
        reading: Reading,
        started: Started,
        write: Write,
    ) -> None:
        self._engine = engine
        self._write = write
        self._started: Started | None = started
        """Until it is written, at the admission."""
        self._answers = {own: Answer(reading, own, write) for own in sequences}
        """The choices that have not ended."""
        self._error: Exception | None = None
        self._end = asyncio.Event()

    def submit(self) -> None:
        """Queue the sequences; `wait` has to follow.

        Raises:
            BackendError: as `Engine.submit`.
        """
        self._engine.submit(tuple(self._answers), self._receive)

    async def wait(self, patience: float | None) -> None:
        """Return after the last event. The rows are free before the engine's next step, however
        this ends.

        Raises:
            BackendBusyError: no row was free within `patience` seconds.
            BackendError: the reason why a sequence ended early.
        """
        loop = asyncio.get_running_loop()
        timer = None if patience is None else loop.call_later(patience, self._refuse, patience)
        try:
            await self._end.wait()
            if self._error is not None:
                raise self._error
        finally:
            if timer is not None:
                timer.cancel()
            for sequence in self._answers:
                self._engine.release(sequence, answered=False)
            self._answers.clear()

    def _receive(self, sequence: Sequence, post: Post) -> None:
        """Take one result of the engine; an error, the sink's included, ends this request only."""
        answer = self._answers.get(sequence)
        if answer is None or self._error is not None:
            return  # Ended while the step ran that this comes from.
        try:
            if type(post) is Sampled:
                answer.add(post)
            else:
                self._take(answer, post)
        except Exception as error:
            self._fail(error)
        if answer.finished:
            # A stop string ends one choice while the others go on.
            del self._answers[sequence]
            self._engine.release(sequence, answered=True)
            if not self._answers:
                self._end.set()

    def _take(self, answer: "Answer", post: Post) -> None:
        match post:
            case None:
                if self._started is not None:
                    started, self._started = self._started, None
                    self._write(answer.with_prompt_tokens(started))
                    answer.report(answer.cached)
                answer.begin()
            case ChunkRead():
                answer.report(post.read)
            case PromptRead():
                answer.add_prompt(post)
            case BackendError():
                raise post
            case Sampled():
                answer.add(post)

    def _refuse(self, patience: float) -> None:
        if self._started is not None:
            words = f"The model was busy with other requests for {patience:g} s; retry later."
            self._fail(BackendBusyError(words))

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._end.set()


class Answer:
    """One choice of one request. `add` its tokens in order until `finished`."""

    def __init__(self, reading: Reading, sequence: Sequence, write: Write) -> None:
        controls = reading.controls()
        self._write = write
        self._vocabulary = reading.vocabulary
        self._echo = reading.echo
        before = sequence.prompt[-_NEIGHBOURS:] if reading.keeps_space else ()
        self._text = reading.vocabulary.detokenizer(controls, before)
        self._before = before
        self._has_text = False
        """A token with text came, of any section, a space that is not shown included. Kept for
        logprobs only."""
        self._stop = StopMatcher(reading.stop)
        self._reader = reading.reader(controls)
        self._spelled = SpelledMarkers(reading.vocabulary)
        self._calls_only = reading.calls_only
        self._sequence = sequence
        self._choice = sequence.choice
        self._ledger = TokenLedger() if sequence.top_logprobs is not None else None
        self._plain = not reading.stop and self._reader is None and self._ledger is None
        self._count = 0
        self._reasoning = None if reading.reasoning is None else 0
        self._calls = 0
        self._complete = 0
        self._begun_at = self._first_at = 0
        """Times of the start and of the first token, in nanoseconds."""
        self.finished = False

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were in the prefix cache."""
        return self._sequence.cached_tokens

    def with_prompt_tokens(self, started: Started) -> Started:
        """Add the tokens of the prompt to `started`."""
        return replace(started, prompt_tokens=len(self._sequence.prompt), cached_tokens=self.cached)

    def report(self, read: int) -> None:
        """Write how many tokens of the prompt were read."""
        sequence = self._sequence
        progress = PromptProgress(read, len(sequence.prompt), self.cached, sequence.choice)
        self._write(progress)

    def begin(self) -> None:
        """Write the prompt, where it is the beginning of the answer and nothing else is reported
        of it."""
        self._begun_at = perf_counter_ns()
        if self._echo and not self._sequence.reports_prompt:
            self._write(TextDelta(self._echo, choice=self._choice))

    def add_prompt(self, read: PromptRead) -> None:
        """Write the prompt with its logprobs; the answer ends here where no token was wanted."""
        reported = None
        if self._ledger is not None:
            prompt = self._sequence.prompt
            reported = to_prompt_logprobs(self._vocabulary, prompt, read.tokens, self._echo)
        self._write(TextDelta(self._echo, reported, self._choice))
        if read.finish is not None:
            self._finish("length", None)

    def add(self, sampled: Sampled) -> None:
        """Write the events of one token, the last of them `Finished` where it ends the answer."""
        self._count += 1
        if not self._first_at:
            self._first_at = perf_counter_ns()
        if not self._plain or sampled.finish is not None:
            self._add(sampled)
        elif text := self._text.add(sampled.token):
            self._write(TextDelta(text, None, self._choice))

    def _add(self, sampled: Sampled) -> None:
        """Handle what a plain answer lacks: an end, sections, stop strings, logprobs."""
        last = sampled.finish is not None
        text = "" if sampled.finish == "stop" else self._text.add(sampled.token)
        if self._ledger is not None and sampled.finish != "stop":
            self._ledger.add(self._to_entry(sampled), len(text))
            self._has_text |= bool(text or self._vocabulary.bytes_of(sampled.token))
        if last:
            text += self._text.finish()
        if self._reader is None:
            matched = self._show(text, text, last=last)
        else:
            text = self._spelled.hide(sampled.token, text)
            matched = self._read(self._reader, text, last=last)
        if last or matched is not None:
            if self._sequence.reports_prompt:
                self._report_silent(sampled)
            self._finish(sampled.finish, matched)

    def _to_entry(self, sampled: Sampled) -> TokenLogprob:
        """Return the logprob of a token as the text has it."""
        entry = to_logprob(self._vocabulary, sampled)
        tokens = (sampled.token, *(token for token, _ in sampled.top))
        is_bare = not self._has_text and self._vocabulary.drops_space(tokens, self._before)
        return without_space(entry) if is_bare else entry

    def _read(self, reader: SectionReader, text: str, *, last: bool) -> str | None:
        """Write the sections of `text`; return the stop string that ended the answer."""
        before = reader.in_reasoning
        pieces = reader.feed(text) + (reader.finish() if last else [])
        if self._reasoning is not None and (before or reader.in_reasoning):
            self._reasoning += 1
        for piece in map(self._spelled.reveal, pieces):
            if (matched := self._write_piece(piece)) is not None:
                return matched
        if last:
            self._show("", "", last=True)
        return None

    def _write_piece(self, piece: Piece) -> str | None:
        """Write the events of `piece`; return the stop string that ended the answer."""
        match piece.kind:
            case "content" if not self._calls_only:
                return self._show(piece.text, piece.source, last=False)
            case "reasoning":
                self._write(ReasoningDelta(piece.text, self._choice))
            case "call":
                # A stop string cannot reach into a call: text kept back for one is shown first.
                self._show("", "", last=True)
                name = f"call_{token_hex(12)}"
                self._write(ToolCallStarted(self._calls, name, piece.text, self._choice))
                self._calls += 1
            case "arguments":
                self._write(ToolCallDelta(self._calls - 1, piece.text, self._choice))
            case "end":
                self._complete += 1
            case "marker" | "content":
                pass
        if self._ledger is not None:
            self._ledger.drop(len(piece.source))
        return None

    def _show(self, text: str, source: str, *, last: bool) -> str | None:
        """Write `text` up to a stop string; return that string, if there is one."""
        shown, matched = self._stop.feed(text)
        if last and matched is None:
            shown += self._stop.flush()
        entries: tuple[TokenLogprob, ...] | None = None
        if self._ledger is not None:
            self._ledger.keep(len(source))
            entries = self._ledger.take(len(shown), last=last and matched is None)
        if shown or entries:
            self._write(TextDelta(shown, entries, self._choice))
        return matched

    def _report_silent(self, sampled: Sampled) -> None:
        """Report the end token: a reported prompt promises the logprob of each."""
        if self._ledger is not None and sampled.finish == "stop":
            entry = to_logprob(self._vocabulary, sampled)
            self._write(TextDelta("", (entry,), self._choice))

    def _finish(self, finish: Finish | None, matched: str | None) -> None:
        self.finished = True
        usage = Usage(
            prompt_tokens=len(self._sequence.prompt),
            completion_tokens=self._count,
            cached_tokens=self._sequence.cached_tokens,
            reasoning_tokens=self._reasoning,
        )
        cut = matched is None and finish == "length"
        reason: FinishReason = "length" if cut else "tool_calls" if self._complete else "stop"
        self._write(Finished(reason, usage, matched, self._choice, self._timings()))

    def _timings(self) -> Timings:
        now = perf_counter_ns()
        first = self._first_at or now
        return Timings(load=None, prompt=first - self._begun_at, answer=now - first)
