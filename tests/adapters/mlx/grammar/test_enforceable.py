"""Parts of schemas that cannot be enforced: left out of loose schemas, an error in strict ones."""

import json
from typing import Any

import pytest
from fakes.even_sampler import draw, fits
from llguidance import LLMatcher

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.grammar.lark import Style
from adapters.request import GenerationRequest, JSONSchema, NamedTool, Tool

PATH = "tools[0].function.parameters.properties.a"
INT64 = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
UNENFORCEABLE: dict[str, tuple[dict[str, Any], str]] = {
    "propertyNames": ({"type": "object", "propertyNames": {"maxLength": 3}}, ".propertyNames"),
    "not": ({"type": "string", "not": {"const": "x"}}, ".not"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, ".uniqueItems"),
    "contains": ({"type": "array", "contains": {"const": 1}}, ".contains"),
    "if": ({"type": "object", "if": {}}, ".if"),
    "dependentRequired": ({"type": "object", "dependentRequired": {}}, ".dependentRequired"),
    "unevaluated": ({"type": "object", "unevaluatedProperties": False}, ".unevaluatedProperties"),
    "$dynamicRef": ({"$dynamicRef": "#node"}, ".$dynamicRef"),
    "overlapping oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ".oneOf"),
    "look-ahead": ({"type": "string", "pattern": "^(?!x).*$"}, ".pattern"),
    "broken pattern": ({"type": "string", "pattern": "["}, ".pattern"),
    "null for a number": ({"type": "string", "minLength": None}, ".minLength"),
    "null for properties": ({"type": "object", "properties": None}, ".properties"),
    "null for a type": ({"type": None}, ".type"),
    "null for a schema": ({"properties": {"b": None}}, ".properties.b"),
    "required of a property": ({"type": "string", "required": True}, ".required"),
    "invented type": ({"type": "float"}, ".type"),
    "invented keyword": ({"type": "string", "x-order": 3}, ".x-order"),
    "misspelt keyword": ({"type": "string", "maxLenght": 3}, ".maxLenght"),
    "options of the compiler": ({"x-guidance": {"lenient": True}}, ".x-guidance"),
    "contradiction": ({"type": "string", "minLength": 5, "maxLength": 3}, ".maxLength"),
    "no values": ({"type": "string", "enum": []}, ".enum"),
    "gone": ({"$ref": "#/$defs/gone"}, ".$ref"),
    "elsewhere": ({"$ref": "https://example.com/s.json"}, ".$ref"),
    "inner": ({"type": "array", "items": {"anyOf": [{"not": {}}]}}, ".items.anyOf[0].not"),
    "inner pattern": (
        {"type": "object", "properties": {"b": {"type": "string", "pattern": "(?<=a)b"}}},
        ".properties.b.pattern",
    ),
}


def forced(schema: dict[str, Any], *, strict: bool = False) -> GenerationRequest:
    parameters = {"type": "object", "properties": {"a": schema, "b": {"const": 1}}}
    parameters["required"] = ["a", "b"]
    tool = Tool("f", None, parameters, strict)
    return GenerationRequest(model="m", prompt="p", tools=(tool,), tool_choice=NamedTool("f"))


def with_format(schema: dict[str, Any], *, strict: bool = False) -> GenerationRequest:
    return GenerationRequest(
        model="m", prompt="p", response_format=JSONSchema(schema, strict=strict)
    )


async def compiled(
    compiler: GrammarCompiler, request: GenerationRequest
) -> tuple[LLMatcher, tuple[str, ...]]:
    matcher, ignored = await compiler.compile(request, Style())
    assert matcher is not None
    return matcher, ignored


@pytest.mark.parametrize("name", UNENFORCEABLE)
async def test_keyword_is_left_out_of_a_loose_schema_and_reported(
    compiler: GrammarCompiler, tokenizer: Any, name: str
) -> None:
    schema, path = UNENFORCEABLE[name]
    matcher, ignored = await compiled(compiler, forced(schema))
    assert ignored == (PATH + path,)
    call = json.loads(draw(tokenizer, matcher, 1))
    call = call[0] if isinstance(call, list) else call
    # What can be enforced still is.
    assert call["arguments"]["b"] == 1


@pytest.mark.parametrize("name", UNENFORCEABLE)
async def test_keyword_in_a_strict_schema_is_an_error_with_its_path(
    compiler: GrammarCompiler, name: str
) -> None:
    schema, path = UNENFORCEABLE[name]
    with pytest.raises(InvalidRequestError) as caught:
        await compiled(compiler, forced(schema, strict=True))
    assert caught.value.param == PATH + path


WRONG = frozenset(
    {
        *("null for a number", "null for properties", "null for a type", "null for a schema"),
        *("required of a property", "invented type", "no values", "gone", "elsewhere"),
        "contradiction",
    }
)
"""Schemas that no engine could enforce."""


@pytest.mark.parametrize("name", UNENFORCEABLE)
async def test_another_engine_may_enforce_what_is_no_mistake(
    compiler: GrammarCompiler, name: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await compiled(compiler, forced(UNENFORCEABLE[name][0], strict=True))
    assert isinstance(caught.value, UnsupportedParameterError) is (name not in WRONG)


async def test_overlap_around_a_recursion_is_no_mistake(compiler: GrammarCompiler) -> None:
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    other = {**empty, "properties": {"e": {}}}
    with pytest.raises(UnsupportedParameterError):
        await compiled(compiler, forced({"oneOf": [empty, {"$ref": "#"}, other]}, strict=True))


@pytest.mark.parametrize("names", [True, {}, {"type": "string"}, {"description": "a key"}])
async def test_names_that_every_key_has_are_no_limit(
    compiler: GrammarCompiler, tokenizer: Any, names: Any
) -> None:
    schema = {"propertyNames": names, "additionalProperties": {"const": 1}, "type": "object"}
    matcher, ignored = await compiled(compiler, with_format(schema, strict=True))
    assert ignored == ()
    assert fits(tokenizer, matcher, '{"a":1}')


async def test_loose_response_format_is_reduced_and_a_strict_one_refused(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    schema = {"type": "array", "items": {"const": 1}, "uniqueItems": True, "minItems": 2}
    matcher, ignored = await compiled(compiler, with_format(schema))
    assert ignored == ("response_format.json_schema.schema.uniqueItems",)
    assert fits(tokenizer, matcher, "[1, 1]")
    assert not fits(tokenizer, matcher, "[1]")
    with pytest.raises(InvalidRequestError) as caught:
        await compiled(compiler, with_format(schema, strict=True))
    assert caught.value.param == "response_format.json_schema.schema.uniqueItems"
    assert "'uniqueItems'" in caught.value.message


@pytest.mark.parametrize("strict", [False, True])
async def test_unknown_format_is_an_annotation(
    compiler: GrammarCompiler, tokenizer: Any, strict: bool
) -> None:
    schema = {"type": "string", "format": "phone", "maxLength": 2}
    matcher, ignored = await compiled(compiler, with_format(schema, strict=strict))
    assert ignored == ("response_format.json_schema.schema.format",)
    assert fits(tokenizer, matcher, '"ab"')
    assert not fits(tokenizer, matcher, '"abc"')


async def test_annotations_are_neither_reported_nor_refused(compiler: GrammarCompiler) -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$anchor": "t",
        "title": "T",
        "type": "string",
        "description": "d",
        "default": None,
        "examples": ["not"],
        "readOnly": True,
    }
    assert (await compiled(compiler, with_format(schema, strict=True)))[1] == ()


async def test_names_of_properties_are_no_keywords(compiler: GrammarCompiler) -> None:
    properties = {"not": {"type": "string"}, "format": {"const": 1}, "x-order": {"type": "null"}}
    schema = {"type": "object", "properties": properties}
    assert (await compiled(compiler, with_format(schema, strict=True)))[1] == ()


async def test_limits_of_int64_are_enforced_by_narrower_ones(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    matcher, ignored = await compiled(compiler, with_format(INT64, strict=True))
    assert ignored == ()
    assert fits(tokenizer, matcher, str(2**53 - 1))
    assert not fits(tokenizer, matcher, str(2**63))


async def test_fault_behind_references_is_reported_once_where_it_is(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/x~1y"}, "b": {"$ref": "#/$defs/x~1y"}},
        "required": ["a"],
        "$defs": {"x/y": {"$ref": "#/$defs/z"}, "z": {"type": "string", "pattern": "(?=a)"}},
    }
    matcher, ignored = await compiled(compiler, with_format(schema))
    assert ignored == ("response_format.json_schema.schema.$defs.z.pattern",)
    assert fits(tokenizer, matcher, '{"a": "text"}')
    assert not fits(tokenizer, matcher, '{"a": 1}')


async def test_schema_that_cannot_be_enforced_at_all_becomes_any_object(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    schema: dict[str, Any] = {"type": "string", "description": "x" * 300_000}
    matcher, ignored = await compiled(compiler, with_format(schema))
    assert ignored == ("response_format.json_schema.schema",)
    assert fits(tokenizer, matcher, '{"a": 1}')


async def test_one_faulty_tool_among_forty_leaves_the_others_as_they_are(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    parameters = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    tools = [Tool(f"f{n}", None, parameters) for n in range(40)]
    tools[7] = Tool("f7", None, {"type": "object", "properties": {}, "minProperties": 0, "not": {}})
    request = GenerationRequest(model="m", prompt="p", tools=tuple(tools), tool_choice="required")
    matcher, ignored = await compiled(compiler, request)
    assert ignored == ("tools[7].function.parameters.not",)
    assert fits(tokenizer, matcher, '{"name": "f8", "arguments": {"a": 1}}')
    assert not fits(tokenizer, matcher, '{"name": "f8", "arguments": {"a": 2}}')


@pytest.mark.parametrize("parameters", [None, {}])
async def test_forced_call_of_a_tool_without_parameters_has_no_arguments(
    compiler: GrammarCompiler, tokenizer: Any, parameters: dict[str, Any] | None
) -> None:
    tool = Tool("now", "The time in the given `city`.", parameters)
    request = GenerationRequest(
        model="m", prompt="p", tools=(tool,), tool_choice="required", parallel_tool_calls=False
    )
    matcher, ignored = await compiled(compiler, request)
    assert ignored == ()
    assert fits(tokenizer, matcher, '{"name": "now", "arguments": {}}')
    assert not fits(tokenizer, matcher, '{"name": "now", "arguments": {"city": "Rome"}}')
