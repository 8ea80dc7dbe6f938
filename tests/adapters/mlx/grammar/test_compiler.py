"""Expensive grammars, and the cache of compiled ones."""

import asyncio
from typing import Any

import pytest
from fakes.even_sampler import fits
from fakes.tiny_model import letters_without_bytes

from adapters.errors import (
    BackendUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.mlx.grammar.compiler import MAX_CACHED, GrammarCompiler
from adapters.mlx.grammar.lark import Style
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Lark,
    NamedTool,
    Regex,
    ResponseFormat,
    Tool,
)


def request(response_format: ResponseFormat) -> GenerationRequest:
    return GenerationRequest(model="m", prompt="p", response_format=response_format)


RECURSIVE = {
    "$ref": "#/$defs/a",
    "$defs": {
        "a": {
            "anyOf": [
                {"type": "object", "properties": {n: {"$ref": "#/$defs/a"} for n in "xyz"}},
                {"type": "null"},
            ]
        }
    },
}
CHAIN = {
    "$ref": "#/$defs/d0",
    "$defs": {
        f"d{n}": {"oneOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} if n < 60 else {"const": 1}
        for n in range(61)
    },
}
BOMBS: dict[str, ResponseFormat] = {
    "nested plus": Regex("(a+)+$"),
    "repeated repetition": Regex("a{1,65535}{1,65535}"),
    "exponential states": Regex("(a|b)*a(a|b){40}"),
    "unicode repetition": Regex(r"(\p{L}{1,500}){1,500}&"),
    "ambiguous grammar": Lark('start: a\na: a a | "x" | ""'),
    "endless grammar": Lark("start: start"),
    "recursive schema": JSONSchema(RECURSIVE),
    "branching references": JSONSchema(CHAIN),
    "ten thousand values": JSONSchema({"enum": [f"v{n}" for n in range(8000)]}),
    "two thousand keys": JSONSchema(
        {"type": "object", "properties": {f"k{n}": {"type": "null"} for n in range(2000)}}
    ),
    "prime steps": JSONSchema({"type": "integer", "multipleOf": 999999937}),
    "a billion items": JSONSchema({"type": "array", "minItems": 10**9}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
async def test_expensive_grammar_is_compiled_or_rejected_in_time(tokenizer: Any, name: str) -> None:
    # Long enough for a busy machine: an error about the time would be of the compiler's own limit.
    compiler = GrammarCompiler(tokenizer, frozenset({1}), compile_seconds=6)
    await compiler.compile(request(Regex("a")), Style())
    [error] = await asyncio.gather(
        compiler.compile(request(BOMBS[name]), Style()), return_exceptions=True
    )
    if isinstance(error, BaseException):
        assert isinstance(error, InvalidRequestError)
        assert "to compile" not in error.message
        assert error.param is not None


LONG_CHAIN = {
    "$ref": "#/$defs/d0",
    "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} if n < 1000 else {} for n in range(1001)},
}


def slow(number: int = 0) -> ResponseFormat:
    """A schema, another one for each number, with patterns that are refused one by one: hundreds of
    compilations."""
    patterns = [f"(?!{n})(a|b)*a(a|b){{30}}" for n in range(number, number + 90)]
    properties = {f"k{n}": {"type": "string", "pattern": p} for n, p in enumerate(patterns)}
    return JSONSchema({"type": "object", "properties": properties})


SLOW = slow()


async def test_chain_of_references_is_measured_in_time(compiler: GrammarCompiler) -> None:
    await compiler.compile(request(Regex("a")), Style())
    compiled = await compiler.compile(request(JSONSchema(LONG_CHAIN, strict=True)), Style())
    assert compiled.matcher is not None


async def test_request_behind_a_slow_grammar_is_compiled(tokenizer: Any) -> None:
    compiler = GrammarCompiler(tokenizer, frozenset({1}), compile_seconds=0.3)
    await compiler.compile(request(Regex("a")), Style())
    before = [asyncio.create_task(compiler.compile(request(SLOW), Style())) for _ in range(4)]
    others = [compiler.compile(request(Regex(f"b{n}")), Style()) for n in range(4)]
    for compiled in await asyncio.gather(*others):
        assert compiled.matcher is not None
    await asyncio.wait(before)
    compiler.close()


@pytest.mark.slow
async def test_request_that_only_waited_may_come_again(tokenizer: Any) -> None:
    compiler = GrammarCompiler(tokenizer, frozenset({1}), compile_seconds=60.0, wait_seconds=0.5)
    await compiler.compile(request(Regex("a")), Style())
    before = [
        asyncio.create_task(compiler.compile(request(slow(n * 100)), Style())) for n in range(50)
    ]
    await asyncio.sleep(0)
    with pytest.raises(BackendUnavailableError, match="grammars of other requests") as caught:
        await compiler.compile(request(Regex("b")), Style())
    assert caught.value.retry_after
    for task in before:
        task.cancel()
    await asyncio.wait(before)
    compiler.close()


async def test_grammar_without_a_request_is_not_compiled_to_its_end(tokenizer: Any) -> None:
    compiler = GrammarCompiler(tokenizer, frozenset({1}), compile_seconds=1000.0)
    await compiler.compile(request(Regex("a")), Style())
    known = compiler.cached
    left = [asyncio.create_task(compiler.compile(request(SLOW), Style())) for _ in range(50)]
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    await asyncio.wait(left)
    await compiler.compile(request(Regex("b")), Style())
    assert compiler.cached == known + 1
    compiler.close()


async def test_grammar_is_rejected_when_compiling_exceeds_the_limit(tokenizer: Any) -> None:
    compiler = GrammarCompiler(tokenizer, frozenset({1}), compile_seconds=0)
    # The first request has no limit: it waits for the vocabulary.
    await compiler.compile(request(Regex("a")), Style())
    with pytest.raises(InvalidRequestError, match="longer than 0 s to compile"):
        await compiler.compile(request(Regex("b")), Style())
    compiler.close()


@pytest.mark.slow
async def test_cache_of_compiled_grammars_is_bounded(compiler: GrammarCompiler) -> None:
    for number in range(MAX_CACHED + 40):
        await compiler.compile(request(Regex(f"a{number}")), Style())
    assert compiler.cached == MAX_CACHED


async def test_requests_with_the_same_grammar_have_separate_states(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    (first, _), (second, _) = await asyncio.gather(
        *(compiler.compile(request(Regex("ab")), Style()) for _ in range(2))
    )
    assert first is not None
    assert second is not None
    assert first.consume_tokens(tokenizer.encode("a"))
    assert compiler.cached == 1
    assert fits(tokenizer, second, "ab")


async def test_tokenizer_without_rust_backend_is_rejected_with_the_parameter() -> None:
    compiler = GrammarCompiler(object(), frozenset({1}))
    for generation_request, param in (
        (request(Regex("a")), "guided_regex"),
        (request(Lark("start: /a/")), "guided_grammar"),
        (request(JSONSchema({})), "response_format"),
        (GenerationRequest(model="m", prompt="p", tools=(Tool("f"),)), "tools"),
        (
            GenerationRequest(
                model="m", prompt="p", tools=(Tool("f"),), tool_choice=NamedTool("f")
            ),
            "tool_choice",
        ),
    ):
        with pytest.raises(UnsupportedParameterError) as caught:
            await compiler.compile(generation_request, Style())
        assert caught.value.param == param
    compiler.close()


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (JSONObject(), "{"),
        (JSONSchema({"type": "object", "required": ["a"]}, strict=True), "{"),
        (Regex("ab[é]"), "é"),
        (Lark('start: "ab" "x"'), "x"),
    ],
)
async def test_a_vocabulary_that_lacks_a_required_character_is_named(
    form: ResponseFormat, text: str
) -> None:
    compiler = GrammarCompiler(letters_without_bytes("abc"), frozenset({0}))
    with pytest.raises(UnsupportedParameterError, match="vocabulary cannot write") as caught:
        await compiler.compile(request(form), Style())
    assert text in caught.value.message
    assert caught.value.param is not None
    assert (await compiler.compile(request(Regex("(ab|a[é])c")), Style())).matcher is not None
