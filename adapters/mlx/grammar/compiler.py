"""Grammars compiled for one model's vocabulary, and kept for the next request that has the same."""

import asyncio
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from msgspec.structs import replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.grammar.lark import Grammar, Style, to_grammar
from adapters.request import GenerationRequest, Lark, Regex

MAX_KEPT = 64
"""Compiled grammars; a large one takes a megabyte or two."""
MAX_GRAMMAR_BYTES = 64 * 1024
"""Of a pattern or grammar that the request writes itself."""
COMPILE_SECONDS = 2.0


def parser_limits() -> LLParserLimits:
    """What bounds a compilation and each mask, in llguidance's own units; errors without text.

    Measured here, at 50 000 units of lexer fuel a millisecond: the worst grammars that pass
    compile in a quarter of a second.
    """
    return LLParserLimits(verbose_errors=False)


class GrammarCompiler:
    """Of one loaded model. Safe to use from many tasks of one event loop."""

    def __init__(self, tokenizer: Any, end_tokens: frozenset[int]) -> None:
        """`tokenizer` is mlx-lm's wrapper around the Hugging Face one."""
        self._hf_tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._tokenizer: LLTokenizer | None = None
        self._control: dict[str, int] = {}
        self._compiled: OrderedDict[bytes, LLMatcher] = OrderedDict()
        # One thread makes the vocabulary and the grammars, in the order they are asked for:
        # the parser's limits, not a watchdog, keep any of them from holding it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlx-grammar")

    async def compile(self, request: GenerationRequest, style: Style) -> LLMatcher | None:
        """A matcher of the request's own, at its beginning; `None` if it allows everything.

        Of `style` everything counts but the control tokens, which are known here.

        Raises:
            InvalidRequestError: what is asked cannot be enforced; `param` and the words say what.
            UnsupportedParameterError: this model's tokenizer cannot be constrained.
        """
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, self._compile, request, style)
        try:
            return await asyncio.wait_for(asyncio.shield(work), self._patience())
        except TimeoutError:
            raise InvalidRequestError(
                f"The grammar takes longer than {COMPILE_SECONDS:g} s to compile."
            ) from None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _patience(self) -> float | None:
        """The first request waits for the vocabulary too, which is not its grammar's fault."""
        return None if self._tokenizer is None else COMPILE_SECONDS

    def _compile(self, request: GenerationRequest, style: Style) -> LLMatcher | None:
        tokenizer = self._ready(_blamed(request))
        grammar = to_grammar(request, replace(style, control=self._control))
        if grammar is None:
            return None
        key = sha256(grammar.text.encode()).digest()
        if key not in self._compiled:
            self._compiled[key] = _compile(tokenizer, grammar)
        self._compiled.move_to_end(key)
        if len(self._compiled) > MAX_KEPT:
            self._compiled.popitem(last=False)
        return self._compiled[key].deep_copy()

    def _ready(self, param: str) -> LLTokenizer:
        """`param` is to blame where there is no way."""
        if self._tokenizer is None:
            self._tokenizer = _load_vocabulary(self._hf_tokenizer, self._end_tokens, param)
            added: dict[str, int] = self._hf_tokenizer.get_added_vocab()
            self._control = {
                text: token
                for text, token in added.items()
                if token < self._tokenizer.vocab_size and self._tokenizer.is_special_token(token)
            }
        return self._tokenizer


def _blamed(request: GenerationRequest) -> str:
    """The parameter that asks for a grammar, of several the first."""
    match request.response_format:
        case None:
            return "tools" if request.tool_choice == "auto" else "tool_choice"
        case Regex():
            return "guided_regex"
        case Lark():
            return "guided_grammar"
        case _:
            return "response_format"


def _load_vocabulary(tokenizer: Any, end_tokens: frozenset[int], param: str) -> LLTokenizer:
    """From the Rust tokenizer's own JSON, which has the tokens that were added later too."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise UnsupportedParameterError(
            "This model's tokenizer cannot be constrained.", param=param
        )
    # `None` for the slices takes llguidance's own choice.
    return LLTokenizer(_without_padding(fast), eos_token=sorted(end_tokens) or None)


def _without_padding(fast: Any) -> str:
    """A copy: the tokenizer itself belongs to others."""
    from tokenizers import Tokenizer

    copy: Any = Tokenizer.from_str(fast.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy.to_str()


def _compile(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    if not grammar.pieces and len(grammar.text.encode()) > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(
            f"The grammar is larger than {MAX_GRAMMAR_BYTES // 1024} KB.", param=grammar.param
        )
    matcher = _matcher(tokenizer, grammar.text)
    if not (fault := _fault(matcher)):
        return matcher
    for piece in grammar.pieces if len(grammar.pieces) > 1 else ():
        alone = _matcher(tokenizer, piece.alone())
        if inner := _fault(alone):
            raise InvalidRequestError(_explain(inner), param=piece.param)
    param = grammar.pieces[0].param if len(grammar.pieces) == 1 else grammar.param
    raise InvalidRequestError(_explain(fault), param=param)


def _matcher(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    return LLMatcher(tokenizer, text, log_level=0, limits=parser_limits())


def _fault(matcher: LLMatcher) -> str:
    """Why nothing can be generated; found by asking for the first token, which is a test too."""
    if matcher.is_error():
        return matcher.get_error()
    first = matcher.deep_copy()
    if not any(first.compute_bitmask()):
        return first.get_error() or "nothing can be derived from it"
    return first.get_error()


_KEYWORDS = re.compile(r"Unimplemented keys: \[([^\]]*)\]")
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


def _explain(fault: str) -> str:
    """llguidance's words, less what it says of our own text."""
    if found := _KEYWORDS.search(fault):
        names = found[1].replace('"', "'")
        return f"The schema uses {names}, which cannot be enforced."
    if "oneOf constraints are not supported" in fault:
        return (
            "The schema uses 'oneOf' with alternatives that may overlap; 'anyOf' can be enforced."
        )
    lines = _PLACE.sub("", fault.replace("<non-verbose/>", "").strip()).splitlines()
    reason = next((line for line in lines if line.startswith("error: ")), lines[0])
    return f"The grammar cannot be enforced: {reason.removeprefix('error: ')[:200]}"
