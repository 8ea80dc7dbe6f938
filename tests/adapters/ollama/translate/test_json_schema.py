"""Answers are checked against their schemas."""

import pytest

from adapters.errors import GenerationError, InvalidRequestError
from adapters.ollama.translate.json_schema import Promise


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


@pytest.mark.parametrize(("text", "fits"), [('[true, "a"]', True), ("[true, 1]", False)])
async def test_tuples_of_earlier_drafts_are_checked(text: str, fits: bool):
    items = [{"type": "boolean"}, {"type": "string"}]
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    pair = {"type": "array", "items": items, "minItems": 2, "maxItems": 2, "additionalItems": False}
    promise = Promise(draft | {"properties": {"pair": pair}}, "response_format")
    assert await promise.fits(f'{{"pair": {text}}}') == fits


def test_fault_of_a_schema_is_named_by_its_place():
    schema = {"properties": {"a": {"anyOf": [{}, {"exclusiveMinimum": True}]}}}
    with pytest.raises(InvalidRequestError) as caught:
        Promise(schema, "schema")
    assert caught.value.param == "schema.properties.a.anyOf[1].exclusiveMinimum"


async def test_pattern_that_python_cannot_read_is_no_fault_of_the_schema():
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^\p{L}+$"}}}
    await Promise(schema, "response_format").check('{"a": "é"}')


async def test_patterns_are_left_to_the_grammar():
    schema = {"type": "string", "pattern": "^(a+)+$"}  # Python would take for ever.
    await Promise(schema, "response_format").check('"' + "a" * 40 + 'b"')


@pytest.mark.parametrize(
    ("name", "text", "fits"),
    [
        ("email", "a.b+c@x-y.example.com", True),
        ("email", "a", False),
        ("date-time", "2026-11-29T10:00:00.123Z", True),
        ("date-time", "2026-11-29", False),
        ("time", "10:00:00+01:00", True),
        ("date", "2026-13-01", False),
        ("uuid", "12345678-9000-1234-8199-123481991000", True),
        ("uuid", "1234", False),
        ("uri", "https://example.com/", True),
        ("iri", "any", True),
        ("color", "any", True),
    ],
)
async def test_format_is_checked(name: str, text: str, fits: bool):
    promise = Promise({"type": "string", "format": name}, "response_format")
    assert await promise.fits(f'"{text}"') is fits


def test_reference_to_elsewhere_is_never_fetched():
    with pytest.raises(InvalidRequestError, match="point into the schema itself"):
        Promise({"$ref": "http://127.0.0.1:9/schema"}, "response_format")


def test_promise_of_no_schema_is_the_callers_mistake():
    with pytest.raises(InvalidRequestError) as caught:
        Promise({"type": "nonsense"}, "response_format")
    assert caught.value.param == "response_format.type"
