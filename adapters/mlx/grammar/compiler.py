"""Compile grammars for the vocabulary of a model, with a cache."""

import asyncio
import re
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from math import inf
from typing import Any, NamedTuple, TypeVar

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from msgspec.structs import replace

from adapters.errors import (
    BackendUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.mlx.grammar.enforceable import ANY_OBJECT, Enforceable, enforceable
from adapters.mlx.grammar.lark import (
    SCHEMA_PATH,
    Grammar,
    SchemaRule,
    Style,
    is_constrained,
    parameters_path,
    to_grammar,
)
from adapters.mlx.grammar.vocabulary import renamed
from adapters.request import GenerationRequest, JSONSchema, Lark, Regex, Tool

MAX_CACHED = 64
"""Compiled grammars; a large one takes 1 to 2 MB."""
MAX_GRAMMAR_BYTES = 64 * 1024
"""Limit for patterns and grammars that a request contains."""
COMPILE_SECONDS = 2.0
"""Processor time of one compilation."""
_BUSY = 5.0
"""Limit of the wall-clock time, as a multiple of the processor time: the machine may be busy."""
_MOST_FORCED = 256
"""Tokens without an alternative that are tried when a grammar is compiled."""
WAIT_SECONDS = 10.0
"""Time that a request waits while the grammars of others are compiled."""

T = TypeVar("T")


def parser_limits() -> LLParserLimits:
    """Limits for compilation and for each mask, in llguidance's units; errors without grammar text.

    Measured at 50 000 units of lexer fuel a millisecond: the slowest grammars within the limits
    compile in a quarter of a second.
    """
    return LLParserLimits(verbose_errors=False)


class Compiled(NamedTuple):
    """The grammar of an answer."""

    matcher: LLMatcher | None
    """In its initial state; `None` if the answer is not constrained."""
    ignored: tuple[str, ...] = ()
    """Paths of the parts of schemas that are not enforced."""


class _AbandonedError(Exception):
    """No request waits for this grammar any more."""


class _Turn:
    """The compilation of one request: waited for on the event loop, done on the thread."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._end = 0.0
        self.begun = asyncio.Event()
        self.abandoned = False

    def begin(self) -> None:
        """Called on the thread."""
        self._loop.call_soon_threadsafe(self.begun.set)
        self._end = time.thread_time() + self._seconds
        self.check()

    def check(self) -> None:
        """Called on the thread between two pieces of work.

        Raises:
            _AbandonedError: the result is of no use.
            TimeoutError: it has taken its time.
        """
        if self.abandoned:
            raise _AbandonedError
        if time.thread_time() > self._end:
            raise TimeoutError


class GrammarCompiler:
    """Compiler of one loaded model; any number of tasks of one event loop may use it."""

    def __init__(
        self,
        tokenizer: Any,
        end_tokens: frozenset[int],
        compile_seconds: float = COMPILE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """`tokenizer` is mlx-lm's wrapper around that of Hugging Face."""
        self._hf_tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._compile_seconds = compile_seconds
        self._wait_seconds = wait_seconds
        self._tokenizer: LLTokenizer | None = None
        self._control: dict[str, int] = {}
        self._compiled: OrderedDict[bytes, LLMatcher] = OrderedDict()
        self._enforceable: OrderedDict[bytes, Enforceable] = OrderedDict()
        # One thread compiles the vocabulary and the grammars in the order of the requests. The
        # limits of the parser keep a grammar from blocking it; between its pieces a compilation
        # ends if no request waits for it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlx-grammar")

    async def compile(self, request: GenerationRequest, style: Style) -> Compiled:
        """Compile the grammar of an answer; a new matcher each time.

        What cannot be enforced is left out of schemas that are not strict. `style` needs no control
        tokens: they are added here. Cancelling the call ends the work.

        Raises:
            InvalidRequestError: a strict schema, or a grammar, cannot be enforced; `param` and
                message name the part.
            UnsupportedParameterError: the tokenizer of this model cannot be constrained.
            BackendUnavailableError: other grammars took all the time.
        """
        if not is_constrained(request, style.syntax):
            return Compiled(None)
        loop = asyncio.get_running_loop()
        seconds = self._compile_seconds
        if self._tokenizer is None:  # The first request waits for the vocabulary, without a limit.
            seconds = inf
            await loop.run_in_executor(self._thread, self._load_tokenizer, _param_of(request))
        turn = _Turn(seconds)
        work = loop.run_in_executor(self._thread, self._compile, request, style, turn)
        work.add_done_callback(_retrieve)
        try:
            await self._begun(turn)
            limit = None if seconds == inf else _BUSY * seconds
            return await asyncio.wait_for(asyncio.shield(work), limit)
        except TimeoutError:
            raise InvalidRequestError(
                f"The grammar takes longer than {self._compile_seconds:g} s to compile.",
                param=_param_of(request),
            ) from None
        finally:
            turn.abandoned = True
            work.cancel()

    async def _begun(self, turn: _Turn) -> None:
        """Wait until the thread has come to this request."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn.begun.wait()
        except TimeoutError:
            raise BackendUnavailableError(
                f"The grammars of other requests took longer than {self._wait_seconds:g} s to "
                "compile.",
                retry_after=self._compile_seconds or 1.0,
            ) from None

    @property
    def cached(self) -> int:
        """Number of compiled grammars in the cache."""
        return len(self._compiled)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, request: GenerationRequest, style: Style, turn: _Turn) -> Compiled:
        turn.begin()
        tokenizer = self._load_tokenizer(_param_of(request))
        style = replace(style, control=self._control)
        enforced, ignored = self._to_enforceable(tokenizer, request, turn)
        turn.check()
        try:
            return Compiled(self._cached_matcher(tokenizer, enforced, style), ignored)
        except InvalidRequestError:
            # Each schema alone can be enforced, and not all together: only strict ones are kept.
            loose, ignored = _without_loose(enforced, ignored)
            if loose == enforced:
                raise
            return Compiled(self._cached_matcher(tokenizer, loose, style), ignored)

    def _cached_matcher(
        self, tokenizer: LLTokenizer, request: GenerationRequest, style: Style
    ) -> LLMatcher | None:
        grammar = to_grammar(request, style)
        if grammar is None:
            return None
        key = sha256(grammar.text.encode()).digest()
        if key not in self._compiled:
            self._compiled[key] = _compile_grammar(tokenizer, grammar)
        return _recent(self._compiled, key).deep_copy()

    def _to_enforceable(
        self, tokenizer: LLTokenizer, request: GenerationRequest, turn: _Turn
    ) -> tuple[GenerationRequest, tuple[str, ...]]:
        """Return the request without what its loose schemas cannot enforce, and the paths of that.

        Raises:
            InvalidRequestError: a strict schema is wrong; `param` is the path.
            UnsupportedParameterError: a strict schema cannot be enforced.
        """
        ignored: list[str] = []

        def reduced(schema: dict[str, Any], strict: bool, path: str) -> dict[str, Any]:
            found = self._find_enforceable(tokenizer, schema, turn)
            for fault in found.faults:
                if strict and not fault.is_annotation:
                    raise fault.to_error(path)
                ignored.append(path + fault.path)
            return found.schema

        shape = request.response_format
        if isinstance(shape, JSONSchema):
            shape = replace(shape, schema=reduced(shape.schema, shape.strict, SCHEMA_PATH))
        tools = list(request.tools)
        for at, tool in request.callable_tools():
            if tool.parameters and not tool.input_format:
                parameters = reduced(tool.parameters, tool.strict, parameters_path(at))
                tools[at] = replace(tool, parameters=parameters)
        return replace(request, tools=tuple(tools), response_format=shape), tuple(ignored)

    def _find_enforceable(
        self, tokenizer: LLTokenizer, schema: dict[str, Any], turn: _Turn
    ) -> Enforceable:
        def compile_error(bounded: dict[str, Any]) -> str:
            turn.check()
            return _schema_error(tokenizer, SchemaRule("start", "", bounded))

        key = sha256(msgspec.json.encode(schema)).digest()
        if key not in self._enforceable:
            seconds = self._compile_seconds / 2
            self._enforceable[key] = enforceable(schema, compile_error, seconds)
        return _recent(self._enforceable, key)

    def _load_tokenizer(self, param: str) -> LLTokenizer:
        """Load the vocabulary once; an error names `param`."""
        if self._tokenizer is None:
            rust = getattr(self._hf_tokenizer, "backend_tokenizer", None)
            if rust is None:
                raise UnsupportedParameterError(
                    "This model's tokenizer cannot be constrained.", param=param
                )
            if not self._end_tokens:
                raise UnsupportedParameterError(
                    "This model has no token that ends an answer: none can be constrained.",
                    param=param,
                )
            ends = sorted(self._end_tokens)
            try:
                self._tokenizer = LLTokenizer(renamed(rust.to_str()), eos_token=ends)
            except ValueError as error:
                raise UnsupportedParameterError(
                    f"This model's tokenizer cannot be constrained: {error}.", param=param
                ) from error
            added: dict[str, int] = self._hf_tokenizer.get_added_vocab()
            self._control = {
                text: token
                for text, token in added.items()
                if token < self._tokenizer.vocab_size and self._tokenizer.is_special_token(token)
            }
        return self._tokenizer


def _retrieve(work: "asyncio.Future[Compiled]") -> None:
    """Mark the error of a compilation as seen: its request may be gone."""
    if not work.cancelled():
        work.exception()


def _recent(cache: OrderedDict[bytes, T], key: bytes) -> T:
    """Return the value of `key`, which becomes the most recent; the oldest may be dropped."""
    cache.move_to_end(key)
    if len(cache) > MAX_CACHED:
        cache.popitem(last=False)
    return cache[key]


def _without_loose(
    request: GenerationRequest, ignored: tuple[str, ...]
) -> tuple[GenerationRequest, tuple[str, ...]]:
    """Replace every schema that is not strict by that of any object."""
    tools: list[Tool] = []
    for at, tool in enumerate(request.tools):
        if tool.strict or tool.input_format or not tool.parameters:
            tools.append(tool)
        else:
            tools.append(replace(tool, parameters=ANY_OBJECT))
            ignored = _of_all(ignored, parameters_path(at))
    shape = request.response_format
    if isinstance(shape, JSONSchema) and not shape.strict:
        shape = replace(shape, schema=ANY_OBJECT)
        ignored = _of_all(ignored, SCHEMA_PATH)
    return replace(request, tools=tuple(tools), response_format=shape), ignored


def _of_all(ignored: tuple[str, ...], path: str) -> tuple[str, ...]:
    """Put `path` in place of the paths inside it."""
    return (*(each for each in ignored if not each.startswith(path)), path)


def _param_of(request: GenerationRequest) -> str:
    """The first parameter that needs a grammar."""
    match request.response_format:
        case None:
            return "tools" if request.tool_choice == "auto" else "tool_choice"
        case Regex():
            return "guided_regex"
        case Lark():
            return "guided_grammar"
        case _:
            return "response_format"


def _compile_grammar(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    if not grammar.schemas and len(grammar.text.encode()) > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(
            f"The grammar is larger than {MAX_GRAMMAR_BYTES // 1024} KB.", param=grammar.param
        )
    matcher = _new_matcher(tokenizer, grammar.text)
    if not (error := _error_of(matcher)):
        _require_writable(matcher, grammar.param)
        return matcher
    for schema in grammar.schemas if len(grammar.schemas) > 1 else ():
        if schema_error := _error_of(_new_matcher(tokenizer, schema.as_grammar())):
            raise InvalidRequestError(_explain(schema_error), param=schema.param)
    param = grammar.schemas[0].param if len(grammar.schemas) == 1 else grammar.param
    raise InvalidRequestError(_explain(error), param=param)


def _new_matcher(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    return LLMatcher(tokenizer, text, log_level=0, limits=parser_limits())


def _error_of(matcher: LLMatcher) -> str:
    """The reason why no answer can be generated, or ""; some errors appear with the first mask."""
    if matcher.is_error():
        return matcher.get_error()
    first = matcher.deep_copy()
    if not any(first.compute_bitmask()):
        return first.get_error() or "it allows no answer"
    return first.get_error()


def _require_writable(matcher: LLMatcher, param: str) -> None:
    """Follow the tokens without an alternative from the beginning of the answer.

    Vocabularies without bytes, as T5's, lack characters: the unknown token stands in their place,
    which the matcher then refuses.

    Raises:
        UnsupportedParameterError: the vocabulary cannot write them.
    """
    ahead = matcher.deep_copy()
    for _ in range(_MOST_FORCED):
        if ahead.is_stopped():
            return
        forced = ahead.compute_ff_bytes().decode("utf-8", "ignore")
        token = _only_token(ahead.compute_bitmask())
        if token is None:
            return
        if not ahead.consume_token(token):
            raise UnsupportedParameterError(
                f"This model's vocabulary cannot write all of {forced[:40]!r}, which the grammar "
                "requires.",
                param=param,
            )


def _only_token(allowed: bytes) -> int | None:
    """Return the token of a mask with a single one."""
    bits = int.from_bytes(allowed, "little")
    return bits.bit_length() - 1 if bits.bit_count() == 1 else None


def _schema_error(tokenizer: LLTokenizer, rule: SchemaRule) -> str:
    """Message for the client about a schema that cannot be enforced, or ""."""
    error = _error_of(_new_matcher(tokenizer, rule.as_grammar()))
    return _explain(error) if error else ""


_KEYWORDS = re.compile(r"Unimplemented keys: \[([^\]]*)\]")
_POSITION = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


def _explain(error: str) -> str:
    """Message for the client: llguidance's, without positions in the generated grammar."""
    if match := _KEYWORDS.search(error):
        names = match[1].replace('"', "'")
        return f"The schema uses {names}, which cannot be enforced."
    if "oneOf constraints are not supported" in error:
        return "The schema uses 'oneOf' with alternatives that may overlap; use 'anyOf' instead."
    lines = _POSITION.sub("", error.replace("<non-verbose/>", "").strip()).splitlines()
    reason = next((line for line in lines if line.startswith("error: ")), lines[0])
    return f"The grammar cannot be enforced: {reason.removeprefix('error: ')[:200]}"
