"""Mistakes of JSON schemas: the same parameter and the same words on both engines."""

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_model import END, write_tiny_model
from mlx_lm.tokenizer_utils import load

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.json_schema.reading import read_schema
from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.grammar.lark import Style
from adapters.ollama.translate.json_schema import Promise
from adapters.ollama.translate.request import to_grammar
from adapters.request import GenerationRequest, JSONSchema

PLACE = "response_format.json_schema.schema"
MISTAKES: tuple[tuple[Any, str, str], ...] = (
    ({"type": "strin"}, ".type", "'type' cannot be \"strin\" in a JSON schema."),
    (
        {"type": ["string", "nil"]},
        ".type",
        '\'type\' cannot be ["string", "nil"] in a JSON schema.',
    ),
    ({"type": []}, ".type", "'type' cannot be [] in a JSON schema."),
    ({"pattern": None}, ".pattern", "'pattern' cannot be null in a JSON schema."),
    ({"minimum": "1"}, ".minimum", "'minimum' cannot be \"1\" in a JSON schema."),
    ({"minLength": 1.5}, ".minLength", "'minLength' cannot be 1.5 in a JSON schema."),
    ({"multipleOf": 0}, ".multipleOf", "'multipleOf' cannot be 0 in a JSON schema."),
    ({"required": [1]}, ".required", "'required' cannot be [1] in a JSON schema."),
    ({"properties": ["b"]}, ".properties", "'properties' cannot be [\"b\"] in a JSON schema."),
    ({"enum": []}, ".enum", "'enum' cannot be [] in a JSON schema."),
    ({"items": "string"}, ".items", "'items' cannot be \"string\" in a JSON schema."),
    ("string", "", "A schema must be an object or a boolean."),
    ({"anyOf": [3]}, ".anyOf[0]", "A schema must be an object or a boolean."),
    (
        {"type": "string", "minLength": 5, "maxLength": 3},
        ".maxLength",
        "The schema's 'minLength' is above 'maxLength'.",
    ),
    (
        {"type": "number", "exclusiveMinimum": 3, "maximum": 3},
        ".maximum",
        "No number is between the schema's 'exclusiveMinimum' and 'maximum'.",
    ),
    (
        {"type": "number", "minimum": 4, "exclusiveMinimum": 4, "maximum": 3},
        ".maximum",
        "The schema's 'minimum' is above 'maximum'.",
    ),
    (
        {"type": "integer", "enum": ["1", "2"]},
        ".type",
        "No value of the schema's 'enum' has its 'type'.",
    ),
    (
        {"type": ["string", "null"], "const": 1},
        ".type",
        "No value of the schema's 'const' has its 'type'.",
    ),
    (
        {"const": "a", "enum": ["b"]},
        ".enum",
        "The schema's 'const' is none of the values of its 'enum'.",
    ),
    (
        {"required": ["b"], "additionalProperties": False},
        ".required",
        "The schema requires 'b', which is none of its 'properties'.",
    ),
    (
        {"$ref": "https://example.com/b.json"},
        ".$ref",
        "A $ref must point into the schema itself, as '#/$defs/NAME' does.",
    ),
    ({"$ref": "#/$defs/b"}, ".$ref", "The $ref '#/$defs/b' has no target in the schema."),
    ({"$ref": "#"}, ".$ref", "No finite value fits the $ref '#'."),
    (
        {"type": "object", "properties": {"b": {"$ref": "#"}}, "required": ["b"]},
        ".properties.b.$ref",
        "No finite value fits the $ref '#'.",
    ),
    (
        {"type": "array", "items": {"$ref": "#/properties/a"}, "minItems": 1},
        ".items.$ref",
        "No finite value fits the $ref '#/properties/a'.",
    ),
    (
        {"anyOf": [{"$ref": "#/properties/a"}, {"allOf": [{"$ref": "#"}]}]},
        ".anyOf[0].$ref",
        "No finite value fits the $ref '#/properties/a'.",
    ),
)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    folder: Path = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    return GrammarCompiler(load(folder), frozenset({END}))


def strict(schema: Any) -> GenerationRequest:
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return GenerationRequest(model="m", prompt="p", response_format=JSONSchema(whole, strict=True))


@pytest.mark.parametrize(("schema", "path", "words"), MISTAKES)
async def test_mistake_of_a_strict_schema_has_one_wording(
    compiler: GrammarCompiler, schema: Any, path: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError) as on_mlx:
        await compiler.compile(strict(schema), Style())
    with pytest.raises(InvalidRequestError) as on_ollama:
        to_grammar(strict(schema))
    for caught in (on_mlx, on_ollama):
        assert not isinstance(caught.value, UnsupportedParameterError)
        assert (caught.value.param, caught.value.message) == (
            f"{PLACE}.properties.a{path}",
            words,
        )


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {}},
        {"x-order": 3},
        {"propertyNames": {"maxLength": 3}},
        {"description": "x" * 300_000},
        reduce(lambda inner, _: {"items": inner}, range(70), {}),
    ],
)
async def test_keyword_that_no_engine_enforces_has_one_wording(
    compiler: GrammarCompiler, schema: Any
) -> None:
    with pytest.raises(UnsupportedParameterError) as on_mlx:
        await compiler.compile(strict(schema), Style())
    with pytest.raises(UnsupportedParameterError) as on_ollama:
        to_grammar(strict(schema))
    assert on_mlx.value.message == on_ollama.value.message
    assert on_mlx.value.param == on_ollama.value.param


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "string"]},
        {"type": "object", "properties": {"b": {}}, "required": ["b", "b"]},
        {"type": "string", "deprecated": 3, "$comment": 3, "$anchor": "a b", "title": None},
        {"type": "string", "minLength": 1.0},
        {"type": "integer", "minimum": 3, "exclusiveMinimum": True},
        {"type": "integer", "minimum": 3, "exclusiveMinimum": False},
    ],
)
async def test_schema_with_one_meaning_is_enforced_on_both(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    _, ignored = await compiler.compile(strict(schema), Style())
    grammar = to_grammar(strict(schema))
    assert grammar is not None
    assert (ignored, grammar.left_out) == ((), ())
    Promise(schema, PLACE)


@pytest.mark.parametrize(
    ("schema", "read"),
    [
        ({"minimum": 3, "exclusiveMinimum": True}, {"exclusiveMinimum": 3}),
        ({"minimum": 3, "exclusiveMinimum": False}, {"minimum": 3}),
        ({"maximum": 3, "exclusiveMaximum": True}, {"exclusiveMaximum": 3}),
        ({"properties": {"not": {"title": "T"}}}, {"properties": {"not": {}}}),
        ({"propertyNames": {"type": "string"}, "items": [{}]}, {"prefixItems": [{}]}),
        (True, True),
    ],
)
def test_schema_is_read_without_what_says_nothing(schema: Any, read: Any) -> None:
    assert read_schema(schema) == (read, [])
