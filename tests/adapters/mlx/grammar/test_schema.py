"""Answers under a schema are valid: sampled evenly from all allowed tokens."""

import json
from typing import Any

import jsonschema
import pytest
from fakes.even_sampler import draw, fits
from llguidance import LLMatcher

from adapters.errors import InvalidRequestError
from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.grammar.lark import Style
from adapters.mlx.grammar.schema import bound
from adapters.request import GenerationRequest, JSONObject, JSONSchema

NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
    "required": ["value", "children"],
}
SUM = {
    "type": "object",
    "properties": {
        "op": {"enum": ["+", "*"]},
        "left": {"$ref": "#/$defs/term"},
        "right": {"$ref": "#/$defs/term"},
    },
    "required": ["op", "left", "right"],
}


def variant(kind: str, other: dict[str, Any]) -> dict[str, Any]:
    properties = {"kind": {"const": kind}, **other}
    return {"type": "object", "properties": properties, "required": list(properties)}


ENDLESS: dict[str, dict[str, Any]] = {
    "number": {"type": "number"},
    "number above": {"type": "number", "minimum": 1e16},
    "number of quarters": {"type": "number", "multipleOf": 0.25},
    "integer": {"type": "integer", "exclusiveMinimum": 0},
    "string": {"type": "string"},
    "pattern": {"type": "string", "pattern": "^[a-z]+$"},
    "anything": {},
    "object": {"type": "object"},
    "array": {"type": "array"},
    "map": {"type": "object", "additionalProperties": {"type": "number"}},
    "nullable": {"type": ["number", "null"]},
    "required only": {"required": ["a"]},
    "nested": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "tags": {"type": "array", "items": {"enum": ["a", 1, None]}},
            "when": {"type": "string", "format": "date-time"},
            "box": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "boolean"}]},
        },
        "required": ["name", "tags", "when", "box"],
    },
    "tree": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    "list": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
        "additionalProperties": False,
    },
    "term": {
        "$ref": "#/$defs/term",
        "$defs": {"sum": SUM, "term": {"anyOf": [{"$ref": "#/$defs/sum"}, {"type": "integer"}]}},
    },
    "variants": {
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {"a": variant("a", {"x": {"type": "number"}}), "b": variant("b", {"y": {}})},
    },
    "inherited": {
        "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"type": "number"}}}],
        "$defs": {"base": variant("base", {"a": {"type": "integer"}})},
    },
    "either key": {
        "type": "object",
        "properties": {"id": {"type": "integer"}},
        "anyOf": [
            {"properties": {"u": {"type": "number"}}, "required": ["u"]},
            {"properties": {"w": {"type": "boolean"}}, "required": ["w"]},
        ],
    },
}


async def compiled(compiler: GrammarCompiler, schema: dict[str, Any]) -> LLMatcher:
    response_format = JSONSchema(schema, strict=True)
    request = GenerationRequest(model="m", prompt="p", response_format=response_format)
    matcher, _ = await compiler.compile(request, Style())
    assert matcher is not None
    return matcher


@pytest.mark.parametrize("name", ENDLESS)
async def test_answer_ends_and_is_valid_when_the_schema_has_no_bounds(
    compiler: GrammarCompiler, tokenizer: Any, name: str
) -> None:
    matcher = await compiled(compiler, ENDLESS[name])
    for seed in range(4):
        text = draw(tokenizer, matcher.deep_copy(), seed)
        jsonschema.validate(json.loads(text), ENDLESS[name])


async def test_json_mode_ends_with_an_object(compiler: GrammarCompiler, tokenizer: Any) -> None:
    request = GenerationRequest(model="m", prompt="p", response_format=JSONObject())
    matcher, _ = await compiler.compile(request, Style())
    assert matcher is not None
    for seed in range(10):
        assert isinstance(json.loads(draw(tokenizer, matcher.deep_copy(), seed)), dict)
    assert fits(tokenizer, matcher, '{"a": [1, {"b": "c"}], "d": null}')
    assert not fits(tokenizer, matcher, "[1]")


async def test_white_space_is_one_space_after_a_separator(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    matcher = await compiled(compiler, {"type": "array", "items": {"type": "integer"}})
    assert fits(tokenizer, matcher, "[1, 2]")
    assert fits(tokenizer, matcher, "[1,2]")
    assert not fits(tokenizer, matcher, "[1,  2]")
    assert not fits(tokenizer, matcher, "[\n1]")


ANY_TREE = {"oneOf": [{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/pair"}]}
PAIR = variant("pair", {"left": ANY_TREE, "right": {"$ref": "#/$defs/tree"}})
TREES = {"leaf": variant("leaf", {}), "pair": PAIR, "tree": ANY_TREE}
LINK = {"allOf": [{"$ref": "#/$defs/named"}, {"properties": {"next": {"$ref": "#/$defs/link"}}}]}
LINKS = {"named": {"properties": {"name": {"const": 1}}, "required": ["name"]}, "link": LINK}


@pytest.mark.parametrize(
    ("schema", "begin", "middle", "end"),
    [
        (ENDLESS["list"], '{"next":', "null", "}"),
        ({}, '{"a":[', "1", "]}"),
        ({"type": "object"}, '{"a":[', "1", "]}"),
        (
            {"$ref": "#/$defs/tree", "$defs": TREES},
            '{"kind":"pair","left":{"kind":"leaf"},"right":',
            '{"kind":"leaf"}',
            "}",
        ),
        (
            {"$ref": "#/$defs/tree", "$defs": TREES},
            '{"kind":"pair","left":',
            '{"kind":"leaf"}',
            ',"right":{"kind":"leaf"}}',
        ),
        ({"$ref": "#/$defs/link", "$defs": LINKS}, '{"name":1,"next":', '{"name":1}', "}"),
    ],
    ids=["list", "anything", "free object", "right", "left", "merged"],
)
async def test_recursion_is_as_deep_as_the_answer(
    compiler: GrammarCompiler, tokenizer: Any, schema: Any, begin: str, middle: str, end: str
) -> None:
    matcher = await compiled(compiler, schema)
    text = begin * 40 + middle + end * 40
    jsonschema.validate(json.loads(text), schema)
    assert fits(tokenizer, matcher, text)
    assert not fits(tokenizer, matcher, text.replace("1", "@").replace("leaf", "twig")[:-1])


async def test_strings_and_lists_are_as_long_as_the_answer(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    schema = {"properties": {"text": {"type": "string"}, "rows": {"type": "array"}}}
    matcher = await compiled(compiler, schema)
    answer = {"text": "line\n" * 4000, "rows": [{f"key{row}": row} for row in range(300)]}
    assert fits(tokenizer, matcher, json.dumps(answer))


@pytest.mark.parametrize(
    "alternatives", [[{"$ref": "#"}, {"type": "null"}], [{"allOf": [{"$ref": "#"}]}, {"const": 1}]]
)
async def test_alternative_that_is_the_schema_itself_adds_nothing(
    compiler: GrammarCompiler, tokenizer: Any, alternatives: list[Any]
) -> None:
    matcher, _ = await compiler.compile(
        GenerationRequest(
            model="m", prompt="p", response_format=JSONSchema({"oneOf": alternatives})
        ),
        Style(),
    )
    assert matcher is not None
    assert fits(tokenizer, matcher, "null" if "type" in alternatives[1] else "1")


def test_bounded_schema_is_unchanged() -> None:
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 1, "maximum": 9},
            "s": {"type": "string", "maxLength": 9000},
            "a": {"type": "array", "items": {"const": 1}, "maxItems": 900},
        },
        "required": ["n"],
        "additionalProperties": False,
    }
    assert bound(schema) == schema


NESTED: dict[str, Any] = {"type": "string"}
for _ in range(40):
    NESTED = {"type": "array", "items": NESTED}
DEEP = {"type": "array", "items": NESTED, "minItems": 1}
for _ in range(40):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "path", "words"),
    [
        ({"type": "array", "uniqueItems": True}, ".uniqueItems", "'uniqueItems'"),
        ({"not": {"type": "string"}}, ".not", "'not'"),
        ({"type": "object", "if": {}, "then": {}}, ".if", "'if'"),
        ({"propertyNames": {"maxLength": 3}}, ".propertyNames", "'propertyNames'"),
        ({"type": "string", "pattern": "(?=a)b"}, ".pattern", "look-ahead"),
        ({"type": "what"}, ".type", '"what"'),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ".oneOf", "'oneOf'"),
        ({"$ref": "#/$defs/gone"}, ".$ref", "The $ref '#/$defs/gone' has no target in the schema."),
        ({"$ref": "https://example.com/s.json"}, ".$ref", "point into the schema itself"),
        ({"x-guidance": {"lenient": True}, "not": {}}, ".x-guidance", "'x-guidance'"),
        (
            {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
            ".properties.a.$ref",
            "finite",
        ),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-8}, ".maximum", "small"),
        ({"type": "string", "description": "x" * 300_000}, "", "256 KB"),
        (DEEP, "", "64 levels"),
        ({"properties": 3}, ".properties", "'properties'"),
        ({"anyOf": 1}, ".anyOf", "'anyOf'"),
        ({"minLength": 5, "maxLength": 3, "type": "string"}, ".maxLength", "minLength"),
    ],
)
async def test_unsupported_schema_is_rejected_by_name(
    compiler: GrammarCompiler, schema: dict[str, Any], path: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await compiled(compiler, schema)
    assert words in caught.value.message
    assert caught.value.param == f"response_format.json_schema.schema{path}"
