"""JSON in which a model repeats itself is closed; everything else is left alone."""

import itertools
import json
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_model import END

from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.grammar.lark import Style
from adapters.mlx.grammar.loop_end import LoopEnd
from adapters.mlx.grammar.processor import GrammarProcessor
from adapters.request import GenerationRequest, JSONSchema

NAMES = {"type": "array", "items": {"type": "string"}}
BOTH = {
    "type": "object",
    "properties": {"names": NAMES, "text": {"type": "string"}, "n": {"type": "integer"}},
    "additionalProperties": False,
}


async def answer(
    compiler: GrammarCompiler, tokenizer: Any, schema: Any, wanted: str, *, most: int = 2000
) -> str:
    """Return the answer of a model that wants to write `wanted`, and then to close what is open."""
    request = GenerationRequest(model="m", prompt="p", response_format=JSONSchema(schema))
    matcher, _ = await compiler.compile(request, Style())
    assert matcher is not None
    grammar, loops = GrammarProcessor(matcher), LoopEnd(tokenizer, [END])
    tokens, last = [1], {tokenizer.encode(text)[0]: 1.0 for text in '1"]}'} | {END: 2.0}
    text = iter(tokenizer.encode(wanted, add_special_tokens=False))
    for _ in range(most):
        likely = last | {next(text, END): 3.0}
        logits = mx.array([[likely.get(token, 0.0) for token in range(258)]])
        history = mx.array(tokens, dtype=mx.int32)
        token = int(mx.argmax(loops(history, grammar(history, logits))).item())  # pyright: ignore[reportArgumentType]
        if token == END:
            return tokenizer.decode(tokens[1:])
        tokens.append(token)
    return tokenizer.decode(tokens[1:])


def required(*names: str) -> dict[str, Any]:
    return BOTH | {"required": list(names)}


async def test_list_that_repeats_an_item_is_closed_and_the_answer_goes_on(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    start = '{"names":["pear","fig"'
    text = await answer(compiler, tokenizer, required("names", "n"), start + ',"apple"' * 200)
    read = json.loads(text)
    assert read["names"][:3] == ["pear", "fig", "apple"]
    assert 32 <= len(read["names"]) < 40
    assert "n" in read


async def test_text_that_repeats_a_word_is_closed(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    start = '{"names":[],"text":"A cake with '
    text = await answer(compiler, tokenizer, required("names", "text", "n"), start + "lemon " * 200)
    read = json.loads(text)
    assert read["text"].startswith("A cake with lemon lemon")
    assert 256 <= len(read["text"]) < 320
    assert "n" in read


@pytest.mark.parametrize("before", range(8))
async def test_list_is_closed_wherever_in_an_item_the_loop_is_seen(
    compiler: GrammarCompiler, tokenizer: Any, before: int
) -> None:
    item = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    properties = {"items": {"type": "array", "items": item}, "n": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["items", "n"]}
    start = '{"items":[{"a":1' + "0" * before + "},"
    text = await answer(compiler, tokenizer, schema, start + '{"a":7},' * 200)
    read = json.loads(text)
    assert 32 <= len(read["items"]) < 40
    assert "n" in read


@pytest.mark.parametrize("before", range(4))
async def test_text_is_closed_behind_a_whole_character(
    compiler: GrammarCompiler, tokenizer: Any, before: int
) -> None:
    start = '{"names":["' + "x" * before
    text = await answer(compiler, tokenizer, required("names", "n"), start + "👏" * 400)
    read = json.loads(text)
    assert 64 <= len(read["names"][0]) < 80
    assert "n" in read


@pytest.mark.parametrize("start", ["a", "aa"])
async def test_text_is_not_closed_within_an_escape(
    compiler: GrammarCompiler, tokenizer: Any, start: str
) -> None:
    text = await answer(compiler, tokenizer, {"type": "string"}, f'"{start}' + "\\n" * 400)
    assert set(json.loads(text)) == {"a", "\n"}
    assert len(text) < 400


ROWS = [{"row": row, "text": "line"} for row in range(60)]


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "array"}, json.dumps(ROWS)),
        ({"type": "array"}, json.dumps([*range(300)])),
        ({"type": "string"}, json.dumps("lemon " * 38)),
        ({"type": "array", "minItems": 100}, json.dumps([0] * 100)),
        ({"type": "array", "minItems": 101}, json.dumps([10, *[0] * 100])),
        ({"type": "string", "minLength": 600}, json.dumps("lemon " * 100)),
    ],
    ids=["rows", "counting", "short", "demanded", "demanded and shifted", "demanded text"],
)
async def test_other_answers_are_left_alone(
    compiler: GrammarCompiler, tokenizer: Any, schema: Any, wanted: str
) -> None:
    assert await answer(compiler, tokenizer, schema, wanted, most=4000) == wanted


def test_prose_is_left_alone(tokenizer: Any) -> None:
    loops = LoopEnd(tokenizer, [END])
    tokens = [1]
    for token in itertools.islice(itertools.cycle(tokenizer.encode("so ")), 400):
        logits = mx.zeros((1, 258))
        assert loops(mx.array(tokens, dtype=mx.int32), logits) is logits
        tokens.append(token)
