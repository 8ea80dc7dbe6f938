"""Which schemas Ollama's grammar can hold, by what a 0.33 did with them."""

from typing import Any

import pytest

from adapters.errors import GenerationError, InvalidRequestError, UnsupportedParameterError
from adapters.ollama.translate.json_schema import Promise, refuse_impossible, refuse_unenforceable
from adapters.ollama.translate.request import to_body
from adapters.request import GenerationRequest, JSONSchema, Message, TextPart, Tool

QUESTION = Message(role="user", content=(TextPart("?"),))


def inside(schema: dict[str, Any]) -> dict[str, Any]:
    """The same rule deeper down."""
    return {"type": "object", "properties": {"a": {"type": "array", "items": schema}}}


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "number", "minimum": 5}, "minimum"),
        ({"maximum": 5}, "maximum"),
        ({"type": ["integer", "number"], "exclusiveMaximum": 5}, "exclusiveMaximum"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": 1}, "minimum"),
        ({"type": "integer", "multipleOf": 3}, "multipleOf"),
        ({"type": "string", "format": "email"}, "format"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "pattern"),
        ({"type": "string", "pattern": "^a+$", "minLength": 2}, "minLength"),
        ({"type": "array", "minItems": 3}, "minItems"),
        ({"prefixItems": [{"const": 1}], "items": {"const": 3}, "minItems": 3}, "minItems"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "required"),
        ({"anyOf": [{"type": "object"}], "properties": {"a": {}}}, "properties"),
        ({"allOf": [{"type": "string"}]}, "allOf"),
        ({"if": {}, "then": {}}, "if"),
    ],
)
@pytest.mark.parametrize("deeper", [False, True])
def test_keyword_that_the_grammar_passes_over_is_named(
    schema: dict[str, Any], keyword: str, deeper: bool
):
    with pytest.raises(UnsupportedParameterError, match=f"'{keyword}'") as caught:
        refuse_unenforceable(inside(schema) if deeper else schema, "response_format")
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 1, "maximum": 5},
        {"type": "string", "minLength": 1, "maxLength": 5},
        {"type": "string", "pattern": "^ab+$"},
        {"type": "string", "format": "date-time"},
        {"type": ["string", "null"], "description": "what it is"},
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 2},
        {"type": "object", "properties": {"not": {"const": 1}}, "required": ["not"]},
        {"$defs": {"A": {"type": "null"}}, "$ref": "#/$defs/A", "title": "A"},
        {"anyOf": [{"type": "null"}, {"type": "object", "additionalProperties": False}]},
    ],
)
def test_schema_that_the_grammar_holds_passes(schema: dict[str, Any]):
    refuse_unenforceable(schema, "response_format")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {}, "minItems": 5, "maxItems": 2},  # Its runner crashes.
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "integer", "minimum": 5, "maximum": 2},
        {"$ref": "https://example.com/schema"},  # It takes anything.
    ],
)
def test_schema_that_its_runner_cannot_bear_is_refused(schema: dict[str, Any]):
    with pytest.raises(InvalidRequestError):
        refuse_impossible(inside(schema), "response_format")


def body_of(strict: bool) -> Any:
    schema = JSONSchema({"type": "number", "minimum": 5}, strict)
    return to_body(GenerationRequest(model="m", prompt=(QUESTION,), response_format=schema))


def test_only_a_strict_schema_is_refused_for_ignored_keywords():
    assert body_of(strict=False).format == {"type": "number", "minimum": 5}
    with pytest.raises(UnsupportedParameterError):
        body_of(strict=True)


def test_pattern_of_a_strict_tool_is_refused_when_the_call_is_free():
    tool = Tool("f", None, {"properties": {"a": {"type": "string", "pattern": "^a$"}}}, True)
    with pytest.raises(UnsupportedParameterError) as caught:
        to_body(GenerationRequest(model="m", prompt=(QUESTION,), tools=(tool,)))
    assert caught.value.param == "tools"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "x"}', '{"a": 1, "b": 2}', "[" * 100_000])
async def test_text_that_breaks_the_promise_is_an_error(text: str):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": False,
    }
    with pytest.raises(GenerationError, match="is not the JSON"):
        await Promise(schema, "response_format").check(text)


async def test_text_that_keeps_the_promise_passes():
    await Promise({"properties": {"a": {"type": "integer"}}}, "response_format").check('{"a": 1}')


async def test_patterns_are_left_to_the_grammar():
    schema = {"type": "string", "pattern": "^(a+)+$"}  # Python would take for ever.
    await Promise(schema, "response_format").check('"' + "a" * 40 + 'b"')


async def test_reference_to_elsewhere_is_never_fetched():
    with pytest.raises(GenerationError):
        await Promise({"$ref": "http://127.0.0.1:9/schema"}, "response_format").check("1")


def test_promise_of_no_schema_is_the_callers_mistake():
    with pytest.raises(InvalidRequestError) as caught:
        Promise({"type": "nonsense"}, "response_format")
    assert caught.value.param == "response_format"
