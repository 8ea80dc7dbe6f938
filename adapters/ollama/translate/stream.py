"""Convert the lines of an answer to events, and check what the request demands of it."""

from collections.abc import Awaitable, Callable

import anyio.to_thread
from msgspec import Struct, UnsetType
from msgspec.structs import replace

from adapters.errors import BackendError, GenerationError
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.json_schema.keywords import all_schemas
from adapters.ollama.errors import UnwantedThoughtError
from adapters.ollama.ndjson import LineStream
from adapters.ollama.translate.grammar_schema import to_grammar_schema
from adapters.ollama.translate.json_schema import (
    InputPromise,
    Promise,
    is_complete,
)
from adapters.ollama.translate.quoted_text import QuotedTextReader
from adapters.ollama.translate.request import SCHEMA_PATH, to_grammar
from adapters.ollama.translate.response import Answer, Emit
from adapters.ollama.translate.stop_reader import StopReader
from adapters.ollama.translate.tool_choice import (
    CallBegunError,
    ForcedCallReader,
    chosen_tools,
    is_forced,
    may_call,
    pattern_of,
)
from adapters.ollama.wire import Line
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Regex,
    ResponseFormat,
    Tool,
)
from adapters.sink import Sink
from adapters.upstream.circuit_breaker import FAULTS
from adapters.upstream.restart import is_not_the_callers


class _Reader:
    """Reads the lines of one attempt; what the request demands of its events is noted in passing.

    From a line to the sink: `Answer`, then `ForcedCallReader` for a forced call, then `StopReader`
    for stop strings that Ollama is not told, then `Checks`.
    """

    def __init__(
        self,
        request: GenerationRequest,
        checks: "Checks | None",
        *,
        in_words: bool,
        is_begun: bool,
    ) -> None:
        """`in_words`, `is_begun`: see `AnswerWriter`."""
        forced = _is_forced(request) or is_begun
        is_free = in_words and not forced and not may_call(request)
        reads_calls = forced or may_call(request) or is_free
        self._answer = Answer(one_call=not request.parallel_tool_calls or reads_calls)
        self._checks = checks
        self._quoted = QuotedTextReader() if isinstance(request.response_format, Regex) else None
        self._forced: ForcedCallReader | None = None
        self._stops = StopReader(request.stop) if request.names_stop else None
        self._count = 0
        self.read = self._answer.read if self._stops is None else self._read_counted
        if checks is not None:
            checks.reset()
        if reads_calls:
            # A forced call has no stop strings: see `to_body`.
            may_stop = _cuts_calls(request) and not is_begun
            self._forced = ForcedCallReader(
                chosen_tools(request), may_stop, required=forced, is_free=is_free
            )

    def emit_to(self, emit: Emit) -> None:
        """Let `emit` take the events from now on."""
        if self._checks is not None:
            self._checks.emit = emit
            emit = self._checks.take
        if self._stops is not None:
            self._stops.emit = emit
            emit = self._stops.take
        if self._quoted is not None:
            self._quoted.emit = emit
            emit = self._quoted.take
        if self._forced is not None:
            self._forced.emit = emit
            emit = self._forced.take
        self._answer.emit = emit

    def _read_counted(self, line: Line) -> object:
        self._count += not self.has_stopped
        return self._answer.read(line)

    @property
    def has_stopped(self) -> bool:
        """A stop string was found: what follows is not read."""
        return self._stops is not None and self._stops.found is not None

    @property
    def looks_for_stop(self) -> bool:
        return self._stops is not None

    async def read_to_stop(
        self, lines: LineStream[Line], drain: Callable[[], Awaitable[None]]
    ) -> None:
        """Read `lines` up to a stop string, or to their end; raises as `LineStream.push`."""
        while not self.has_stopped and (batch := await lines.next_lines()):
            behind = [self.read(line) for line in batch]
            if any(behind):
                await drain()
        if lines.last is None:
            self.read(lines.cut(self._count))

    async def finish(self) -> Finished:
        """Return the end of the answer, once all of it was checked.

        Raises:
            GenerationError: it is not what the request demands.
        """
        finished = self._answer.finished
        if self._forced is not None:
            finished = self._forced.finish(finished)
        if self._stops is not None:
            self._stops.finish()
            finished = replace(finished, stop_sequence=self._stops.found)
        if self._checks is not None:
            await self._checks.check(is_cut=finished.reason == "length")
        return finished


class Written(Struct, kw_only=True):
    """The part of a lost answer that was written."""

    text: str = ""
    reasoning: str = ""
    tokens: int = 0


class _Keeper:
    """Keeps the events of an answer while they are written."""

    def __init__(self) -> None:
        self.emit: Emit = bool
        self._events: list[Event] = []

    def take(self, event: Event) -> object:
        self._events.append(event)
        return self.emit(event)

    @property
    def has_called(self) -> bool:
        return any(isinstance(event, ToolCallStarted) for event in self._events)

    def written(self) -> Written:
        texts = [event.text for event in self._events if isinstance(event, TextDelta)]
        thoughts = [event.text for event in self._events if isinstance(event, ReasoningDelta)]
        return Written(text="".join(texts), reasoning="".join(thoughts), tokens=len(self._events))


class Thought(Struct, kw_only=True):
    """A part of an answer that was generated before the rest, by a request of its own."""

    text: str = ""
    tokens: int = 0
    prompt_tokens: int | None = None
    """`None` where the end came without counts."""
    is_cut: bool = False
    """The limit of tokens has ended it."""
    is_reasoning: bool = True

    def takes(self, limit: int | UnsetType) -> bool:
        """True if its tokens are all that `limit` allows; a negative one is none."""
        return not isinstance(limit, UnsetType) and 0 <= limit <= self.tokens

    def add_to(self, answer: Usage) -> Usage:
        """Return the counts of both; the thought is a part of the prompt of `answer`.

        Only generated tokens count: those of words that are written to close a thought would go
        beyond the limit of the answer.
        """
        prompt = self.prompt_tokens
        if prompt is None:
            prompt = max(answer.prompt_tokens - self.tokens, 0)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=self.tokens + answer.completion_tokens,
            reasoning_tokens=self.tokens if self.is_reasoning else None,
        )


class _ThoughtReader:
    """Reads the lines of a thought, from a raw text or a chat, up to the answer after it."""

    def __init__(self, write: Emit) -> None:
        self.thought = Thought()
        self.has_ended = False
        """The answer has begun."""
        self._write = write
        self._space = ""

    def read(self, line: Line) -> object:
        """Write the reasoning of `line`; true where the reader is behind."""
        message = line.message
        if line.done:
            self._end(line)
        if message is not None and (message.content or message.tool_calls):
            self.has_ended = True
        text = line.response if message is None else message.thinking
        if not text:
            return False
        self.thought.text += text
        self.thought.tokens += not line.done
        kept = (self._space + text).rstrip()
        self._space = (self._space + text)[len(kept) :]
        shown = kept if self.thought.text.rstrip() != kept else kept.lstrip()
        return self._write(ReasoningDelta(shown)) if shown else False

    def _end(self, line: Line) -> None:
        self.has_ended = True
        self.thought.is_cut = line.done_reason == "length"
        self.thought.prompt_tokens = line.prompt_eval_count or 0
        self.thought.tokens = line.eval_count or 0


class AnswerWriter:
    """Writes one answer to a sink, however many servers it takes.

    `Started` is written with the first line: until then Ollama may still refuse. A later attempt
    begins with `Restarted`.
    """

    def __init__(
        self,
        request: GenerationRequest,
        sink: Sink,
        checks: "Checks | None",
        *,
        in_words: bool = False,
    ) -> None:
        """`in_words`: tools that may be called are told in words, so that calls are text."""
        self._in_words = in_words and bool(request.tools) and request.tool_choice != "none"
        self._request = request
        self._sink = sink
        self._checks = checks
        grammar = to_grammar(request) if request.response_format or request.tools else None
        self.ignored: tuple[str, ...] = () if grammar is None else grammar.left_out
        """See `Started.ignored`."""
        self.was_cold = False
        """The model had to be loaded before the request was sent."""
        self.template: tuple[str, ...] = ()
        """See `Started.template`."""
        self.excludes_thoughts = request.reasoning_effort == "none" and not request.tools
        """An answer that begins with a thought is not taken. With tools it is, and the effort is
        named in `ignored`: its calls can be had of Ollama's parser only."""
        self._has_started = False
        self._in_attempt = False
        self._thought: Thought | None = None
        self._keeper: _Keeper | None = None
        self._is_begun = False
        """A call that has begun is being generated under a grammar."""

    async def write(self, lines: LineStream[Line], num_ctx: int, *, cold: bool) -> None:
        """Write all events of `lines`, the answer of one server.

        `Finished` is held back until the whole answer has been checked.

        Raises:
            BackendError: the lines break off, or one is not what Ollama's API describes.
            GenerationError: the answer is not what a forced call, or its format, demands. That is
                known only at the end, when the text is written. It is `lasting` where the same
                answer would come again.
        """
        first: list[Event] = []
        reader = _Reader(
            self._request, self._checks, in_words=self._in_words, is_begun=self._is_begun
        )
        try:
            line, *others = await lines.next_lines()
            reader.emit_to(first.append)
            reader.read(line)
            if any(isinstance(each, ReasoningDelta) for each in first):
                self._take_thought()
            self._start(num_ctx, cold, lines.prompt_estimate)
            write = self._kept() if lines.may_be_lost else self._sink.write
            reader.emit_to(write)
            for event in first:
                write(event)
            for line in others:
                reader.read(line)
            if reader.looks_for_stop:
                await reader.read_to_stop(lines, self._sink.drain)
            else:
                await lines.push(reader.read, self._sink.drain)
            finished = await reader.finish()
        except GenerationError as error:
            # The same request gets the same answer, so a retry is useless.
            error.lasting = (
                self._request.sampling.temperature == 0 or self._request.sampling.seed is not None
            )
            raise
        if self._thought is not None:
            usage = self._thought.add_to(finished.usage)
            finished = replace(finished, usage=usage, timings=None)
        self._sink.write(finished)

    async def write_thought(self, lines: LineStream[Line], num_ctx: int, *, cold: bool) -> Thought:
        """Write the reasoning in `lines`, up to their end or to the answer after it.

        Raises:
            BackendError: the lines break off, or one is not what Ollama's API describes.
        """
        reader = _ThoughtReader(self._sink.write)
        self._thought = reader.thought
        while not reader.has_ended:
            batch = await lines.next_lines()
            self._start(num_ctx, cold, lines.prompt_estimate)
            behind = [reader.read(line) for line in batch]
            if any(behind):
                await self._sink.drain()
        if not lines.has_counts:  # It repeated itself: the answer can still be had.
            reader.thought.is_cut, reader.thought.prompt_tokens = False, None
        return reader.thought

    def lost_thought(self) -> Thought:
        """Return what was written of a thought that broke off."""
        return self._thought or Thought()

    def _take_thought(self) -> None:
        """Take the thought that an answer begins with.

        Raises:
            UnwantedThoughtError: the answer can be had without it.
        """
        if self.excludes_thoughts:
            raise UnwantedThoughtError("The answer begins with a thought.")
        if self._request.reasoning_effort == "none":
            self.ignored += ("reasoning_effort",)

    def _kept(self) -> Emit:
        self._keeper = keeper = _Keeper()
        keeper.emit = self._sink.write
        return keeper.take

    def resume(self) -> Written | None:
        """Return what was written of the answer, to write its rest; `None` where there can be none,
        because it had a call or was not kept."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return None if self._in_attempt else Written()
        if keeper.has_called:
            return None
        written = keeper.written()
        if written.text or written.reasoning:
            self._thought = Thought(tokens=written.tokens, is_reasoning=not written.text)
        return written

    def finish_cut(self, thought: Thought) -> None:
        """End the answer in its thought."""
        prompt, tokens = thought.prompt_tokens or 0, thought.tokens
        usage = Usage(prompt_tokens=prompt, completion_tokens=tokens, reasoning_tokens=tokens)
        self._sink.write(Finished("length", usage))

    @property
    def has_started(self) -> bool:
        return self._has_started

    def begin_call(self) -> None:
        """Read what comes next as a forced call."""
        self._is_begun = True
        if self._checks is not None:
            self._checks.writes_anew = False

    def may_restart(self, error: BackendError) -> bool:
        """True where another server may answer after `error`, which ended the last attempt.

        After the first line only an answer that the client sees as a whole is begun again.
        """
        in_attempt, self._in_attempt = self._in_attempt, False
        self._thought = None
        if in_attempt:
            return self._request.whole and isinstance(error, FAULTS)
        return is_not_the_callers(error)

    def _start(self, num_ctx: int, cold: bool, prompt_tokens: int) -> None:
        if self._in_attempt:  # By its thought.
            return
        self._in_attempt = True
        if self._has_started:
            self._sink.write(Restarted(num_ctx))
        else:
            is_cold = cold or self.was_cold
            self._sink.write(Started(num_ctx, is_cold, self.ignored, self.template, prompt_tokens))
        self._has_started = True
        if self._request.echo and isinstance(self._request.prompt, str):
            self._sink.write(TextDelta(self._request.prompt))


def _cuts_calls(request: GenerationRequest) -> bool:
    """True where Ollama itself looks for stop strings: it does not tell calls from text."""
    return bool(request.stop) and not (request.names_stop or _is_forced(request))


def _is_forced(request: GenerationRequest) -> bool:
    return isinstance(request.prompt, tuple) and bool(request.tools) and is_forced(request)


async def checks_of(request: GenerationRequest) -> "Checks | None":
    """Return the checks of the answer to `request`; `None` where it demands nothing.

    In a thread: the library for schemas is imported for the first of them.

    Raises:
        InvalidRequestError: a strict schema is wrong, or cannot be enforced.
    """
    tools = any(tool.strict or tool.input_format for tool in request.tools)
    if request.response_format is None and not tools:
        return None
    return await anyio.to_thread.run_sync(Checks, request)


def _promise_of(response_format: ResponseFormat | None) -> Promise | None:
    """JSON in any case: a model that reasons may end before it has answered at all."""
    match response_format:
        case JSONSchema(schema=schema, strict=True):
            return Promise(schema, SCHEMA_PATH)
        case JSONObject():
            return Promise({"type": "object"}, "response_format")
        case JSONSchema():
            return Promise({}, "response_format")
        case _:
            return None


def _promise_of_call(at: int, tool: Tool) -> Promise:
    """A free call of the tool has no grammar, but one that does not match is generated anew
    under it: a schema that cannot be enforced is refused in time."""
    place = f"tools[{at}].function.parameters"
    schema = {"type": "object"} | (tool.parameters or {})
    to_grammar_schema(schema, place, strict=True)
    return Promise(schema, place)


class Checks:
    """The schemas that an answer must match, and the parts of the answer they apply to."""

    def __init__(self, request: GenerationRequest) -> None:
        forced = _is_forced(request)
        self._may_stop = bool(request.stop) and not forced
        self._may_cut_calls = _cuts_calls(request)
        self._holds_calls = not (forced or may_call(request))
        """A free call has no grammar: it is written once it was checked."""
        self._must_answer = not may_call(request)
        self.writes_anew = self._holds_calls
        """A free call that does not match is generated anew under a grammar."""
        self.has_failed = False
        """The last check has failed."""
        # A forced call is the whole answer: it has no text.
        self._text = None if forced else _promise_of(request.response_format)
        self._tools: dict[str, Promise | InputPromise] = {
            tool.name: _promise_of_call(at, tool)
            for at, tool in request.callable_tools()
            if tool.strict
        }
        for at, tool in enumerate(request.tools):
            if tool.input_format is not None:
                param = f"tools[{at}].input_format"
                self._tools[tool.name] = InputPromise(tool.input_format, param)
        self._in_grammar = frozenset(
            tool.name
            for tool in request.tools
            if tool.input_format is None or pattern_of(tool.input_format) is not None
        )
        """Tools with calls that a grammar can hold to what is checked."""
        self._unchecked = frozenset(
            tool.name
            for tool in request.tools
            for part in all_schemas(tool.parameters)
            if "pattern" in part or "patternProperties" in part
        )
        """Tools with patterns, which only a grammar can enforce; see `Promise`."""

        self.emit: Emit = bool
        self.reset()

    def reset(self) -> None:
        """Forget any earlier attempt."""
        self._texts: list[str] = []
        self._has_called = False
        self._held: list[Event] | None = None
        """Events since the first call that must be checked before it is written."""
        self._called: dict[int, Promise | InputPromise] = {}
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    def take(self, event: Event) -> object:
        """Note `event` and emit it."""
        match event:
            case TextDelta(text=text) if self._text:
                self._texts.append(text)
            case ToolCallStarted(index=index, name=name):
                self._has_called = True
                if name in self._tools:
                    self._called[index] = self._tools[name]
                    self._names[index] = name
                    if self._holds_calls and self._held is None:
                        self._held = []
            case ToolCallDelta(index=index, arguments=arguments) if index in self._called:
                self._arguments.setdefault(index, []).append(arguments)
            case _:
                pass
        if self._held is not None:
            self._held.append(event)
            return False
        return self.emit(event)

    async def check(self, *, is_cut: bool) -> None:
        """Check the complete answer, then write what waits for it.

        `is_cut`: the limit has ended the answer; only the calls that came complete are checked.

        Raises:
            CallBegunError: a free call does not match, and can be generated anew.
            GenerationError: a part of it does not match its schema.
        """
        self.has_failed = True
        # A stop string may have cut the text anywhere, as requested.
        if not is_cut and (not self._may_stop or is_complete("".join(self._texts))):
            await self._check_text()
        if self._held is not None or not (is_cut or self._may_cut_calls):
            for index, promise in self._called.items():
                await self._check_call(index, promise)
        self.has_failed = False
        for event in self._held or ():
            self.emit(event)

    async def _check_call(self, index: int, promise: Promise | InputPromise) -> None:
        arguments = "".join(self._arguments.get(index, ()))
        name = self._names[index]
        if (
            self.writes_anew
            and name in self._in_grammar
            and (name in self._unchecked or not await promise.fits(arguments))
        ):
            raise CallBegunError(name)
        await promise.check(arguments)

    async def _check_text(self) -> None:
        if self._text and (self._must_answer or not self._has_called):
            await self._text.check("".join(self._texts))
