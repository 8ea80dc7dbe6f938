"""Logits of one sequence under a grammar."""

import math
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_model import END, letters_without_bytes

from adapters.errors import GenerationError, UnsupportedParameterError
from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.grammar.lark import Style
from adapters.mlx.grammar.processor import GrammarProcessor
from adapters.request import GenerationRequest, Regex

PROMPT = [1, 2, 3]


async def processor_for(compiler: GrammarCompiler, pattern: str) -> GrammarProcessor:
    request = GenerationRequest(model="m", prompt="p", response_format=Regex(pattern))
    matcher, _ = await compiler.compile(request, Style())
    assert matcher is not None
    return GrammarProcessor(matcher)


def allowed(processor: GrammarProcessor, tokens: list[int], vocabulary: int = 258) -> list[int]:
    logits = mx.zeros((1, vocabulary))
    masked: Any = processor(mx.array(tokens, dtype=mx.int32), logits).tolist()
    return [token for token, value in enumerate(masked[0]) if value > -math.inf]


async def test_tokens_that_the_grammar_excludes_are_masked(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    processor = await processor_for(compiler, "ab?")
    a, b = tokenizer.encode("ab")
    assert allowed(processor, PROMPT) == [a]
    assert not processor.complete
    assert allowed(processor, [*PROMPT, a]) == [b, END]
    assert processor.complete
    assert allowed(processor, [*PROMPT, a, b]) == [END]
    assert processor.error is None


async def test_logits_beyond_the_vocabulary_are_masked(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    processor = await processor_for(compiler, "a")
    assert allowed(processor, PROMPT, vocabulary=320) == tokenizer.encode("a")


async def test_steps_after_the_end_leave_logits_unchanged(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    processor = await processor_for(compiler, "a")
    tokens = [*PROMPT, *tokenizer.encode("a")]
    allowed(processor, PROMPT)
    assert allowed(processor, tokens) == [END]
    for _ in range(3):
        tokens.append(END)
        allowed(processor, tokens)
    assert processor.error is None
    assert processor.complete


async def test_error_is_set_when_a_token_is_not_allowed(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    processor = await processor_for(compiler, "aa")
    allowed(processor, PROMPT)
    assert len(allowed(processor, [*PROMPT, *tokenizer.encode("b")])) == 258
    assert isinstance(processor.error, GenerationError)


@pytest.mark.parametrize("broken", [mx.array([], dtype=mx.int32)])
async def test_error_is_set_when_the_matcher_raises(
    compiler: GrammarCompiler, broken: mx.array
) -> None:
    processor = await processor_for(compiler, "aa")
    allowed(processor, PROMPT)
    logits = mx.zeros((1, 258))
    assert processor(broken, logits) is logits
    assert isinstance(processor.error, GenerationError)


@pytest.mark.parametrize("pattern", ["(a|bx)c", "(a|b[0-9])c"])
async def test_a_character_that_the_vocabulary_lacks_is_the_reason_of_the_error(
    pattern: str,
) -> None:
    tokenizer = letters_without_bytes("abc")
    processor = await processor_for(GrammarCompiler(tokenizer, frozenset({0})), pattern)
    tokens = [*PROMPT, tokenizer.convert_tokens_to_ids("b")]
    allowed(processor, PROMPT)
    left = allowed(processor, tokens)
    allowed(processor, [*tokens, left[0]])
    assert isinstance(processor.error, UnsupportedParameterError)
    assert "vocabulary cannot write" in processor.error.message
