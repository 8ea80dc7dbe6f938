"""Schemas become those that Ollama's grammar enforces, by what a 0.33 did with them."""

import re
from typing import Any

import pytest

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.ollama.translate.grammar_schema import GrammarSchema, to_grammar_schema
from adapters.ollama.translate.request import to_body
from adapters.request import GenerationRequest, JSONSchema, Message, TextPart

QUESTION = Message(role="user", content=(TextPart("?"),))
ANY = {"type": ["object", "array", "string", "number", "boolean", "null"]}
CLOSED = {"properties": {}, "additionalProperties": False}
UNIQUE: dict[str, Any] = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
UNNAMED: dict[str, Any] = {"type": "object", "properties": {"": {"type": "boolean"}}}


def inside(schema: dict[str, Any]) -> dict[str, Any]:
    """The same rule deeper down."""
    return {"type": "object", "properties": {"a": {"type": "array", "items": schema}}}


def rewritten(schema: dict[str, Any], *, strict: bool = False) -> GrammarSchema:
    return to_grammar_schema(schema, "schema", strict=strict)


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "pattern"),
        ({"prefixItems": [{"const": 1}], "items": {"const": 3}, "minItems": 3}, "minItems"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties"),
        ({"anyOf": [{"type": "object"}], "properties": {"a": {}}}, "anyOf"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "allOf"),
        ({"type": "string", "neverHeardOf": 1}, "neverHeardOf"),
        ({"if": {}, "then": {}}, "if"),
        ({"properties": {"a": False, "b": {}}, "required": ["a"]}, "required"),
    ],
)
@pytest.mark.parametrize("deeper", [False, True])
def test_keyword_that_the_grammar_passes_over_is_named(
    schema: dict[str, Any], keyword: str, deeper: bool
):
    with pytest.raises(UnsupportedParameterError, match=f"'{keyword}'") as caught:
        rewritten(inside(schema) if deeper else schema, strict=True)
    place = "schema.properties.a.items" if deeper else "schema"
    assert caught.value.param is not None
    assert caught.value.param.startswith(place)


@pytest.mark.parametrize("name", ["iri", "uri-reference", "regex", "password", "never-heard-of"])
def test_format_without_a_pattern_is_an_annotation(name: str):
    schema = rewritten({"type": "string", "format": name}, strict=True)
    assert schema.left_out == ("schema.format",)


FORMATS = (
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)
"""The formats of OpenAI's strict schemas, and the one that pydantic and Zod write for URLs."""


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 1, "maximum": 5},
        {"type": "string", "minLength": 1, "maxLength": 5},
        {"type": "string", "pattern": "^ab+$"},
        *({"type": "string", "format": name} for name in FORMATS),
        {"type": ["string", "null"], "description": "what it is"},
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 2},
        {"type": "object", "properties": {"not": {"const": 1}}, "required": ["not"]},
        {"$defs": {"A": {"type": "null"}}, "$ref": "#/$defs/A", "title": "A"},
        {"anyOf": [{"type": "null"}, {"type": "object", "additionalProperties": False}]},
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {}},
        {"type": "integer", "minimum": -(10**400), "maximum": 10**400},
        {"$defs": {"A": {"$anchor": "a", "type": "null"}}, "$ref": "#/$defs/A"},
    ],
)
def test_schema_that_the_grammar_holds_passes(schema: dict[str, Any]):
    assert not rewritten(schema, strict=True).left_out


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {}, "minItems": 5, "maxItems": 2},  # Its runner crashes.
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "integer", "minimum": 5, "maximum": 2},
        {"$ref": "https://example.com/schema"},  # It would allow anything.
        {"$ref": "#anchor"},
    ],
)
def test_schema_that_its_runner_cannot_bear_is_refused(schema: dict[str, Any]):
    with pytest.raises(InvalidRequestError):
        rewritten(inside(schema), strict=True)
    assert rewritten(inside(schema)).left_out


@pytest.mark.parametrize(
    ("name", "fitting", "others"),
    [
        ("duration", ["P1D", "PT5M", "P3W", "P1Y2M3DT4H5M6S"], ["P", "PT", "1D", "P1DT", "P1H"]),
        ("email", ["a.b+c@x-y.example.com", "o'n@a.io"], ["a", "a@b", ".a@b.io", "a@-b.io"]),
        ("hostname", ["localhost", "a-1.example.com"], ["", "a..b", "-a", "a_b"]),
        ("ipv4", ["0.0.0.0", "255.10.1.99"], ["256.1.1.1", "1.2.3", "01.2.3.4"]),
        ("uri", ["https://a.example/b?c=d#e", "mailto:a@b.io"], ["a", "/a", "a b:c", "http:%zz"]),
        ("ipv6", ["::", "::1", "1:2:3:4:5:6:7:8", "fe80::a:1"], ["1:2", ":::", "1::2::3", "g::"]),
    ],
)
def test_format_is_enforced_as_a_pattern(name: str, fitting: list[str], others: list[str]):
    pattern = rewritten({"type": "string", "format": name}, strict=True).schema["pattern"]
    assert all(re.search(pattern, text) for text in fitting)
    assert not any(re.search(pattern, text) for text in others)


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        (r"^\p{L}+$", ["Zoë", "Ωμέγα", "日本"], ["a1", "", "_"]),
        (r"^\p{Lu}\p{Ll}*$", ["Éa", "A"], ["aA", "AA"]),
        (r"^\P{L}$", ["1", "-"], ["é", "a"]),
        (r"^[\p{L}\d -]{1,3}$", ["é 1", "-"], ["é_", "abcd"]),
        (r"^[^\p{L}]+$", ["12"], ["1b"]),
        (r"^(?<year>\d{4})$", ["2026"], ["26"]),
        (r"^[(?<]$", ["(", "<"], ["P"]),
    ],
)
def test_pattern_of_javascript_is_enforced(pattern: str, fitting: list[str], others: list[str]):
    held = rewritten({"type": "string", "pattern": pattern}, strict=True).schema["pattern"]
    assert all(re.search(held, text) for text in fitting)
    assert not any(re.search(held, text) for text in others)


@pytest.mark.parametrize("name", ["^(.*)$", "^.*$", ".*", ""])
def test_pattern_of_all_names_is_the_schema_of_the_values(name: str):
    schema = {"type": "object", "patternProperties": {name: {"type": "integer"}}}
    assert rewritten(schema, strict=True).schema == {
        "type": "object",
        "properties": {},
        "additionalProperties": {"type": "integer"},
    }


def test_bound_beside_a_reference_holds_as_well():
    schema = {"$defs": {"N": {"type": "integer", "minimum": 1}}, "$ref": "#/$defs/N", "maximum": 5}
    assert rewritten(schema, strict=True).schema == {"type": "integer", "minimum": 1, "maximum": 5}


def body_of(schema: dict[str, Any], *, strict: bool) -> Any:
    wanted = JSONSchema(schema, strict)
    return to_body(GenerationRequest(model="m", prompt=(QUESTION,), response_format=wanted))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/M", "$defs": {"M": {"$ref": "#/$defs/N", "maximum": 5}}},
        {"allOf": [{"$ref": "#/$defs/N", "maximum": 5}, {"minimum": 0}]},
    ],
)
def test_bound_beside_a_reference_of_another_holds_as_well(schema: dict[str, Any]):
    number = {"type": "integer", "minimum": 0}
    whole = schema | {"$defs": {**schema.get("$defs", {}), "N": number}}
    result = to_grammar_schema(whole, "schema", strict=True).schema
    (bounded,) = result.pop("$defs", {"d0": result}).values()
    assert bounded == {"type": "integer", "minimum": 0, "maximum": 5}


ONLY_A = {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"allOf": [ONLY_A, {"properties": {"b": {"type": "null"}}}]}, "allOf"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "allOf"),
        ({"anyOf": [{"type": "integer"}, {"const": 1}], "type": "string"}, "anyOf"),
        ({"allOf": [{"type": "array", "minItems": 3}, {"maxItems": 2}]}, "maxItems"),
    ],
)
def test_schemas_that_exclude_each_other_are_refused(schema: dict[str, Any], keyword: str):
    with pytest.raises(InvalidRequestError) as caught:
        to_grammar_schema(schema, "schema", strict=True)
    assert caught.value.param == f"schema.{keyword}"


@pytest.mark.parametrize(
    ("schema", "enforced"),
    [
        (
            {"type": "string", "anyOf": [{"type": "object"}, {"maxLength": 2}, True]},
            {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "string"}]},
        ),
        (
            {"type": "number", "anyOf": [{"type": ["integer", "null"], "minimum": 0}]},
            {"anyOf": [{"type": "integer", "minimum": 0}]},
        ),
        ({"allOf": [{"type": "number"}], "type": "integer"}, {"type": "integer"}),
        (
            {"$ref": "#/$defs/A", "type": "integer", "$defs": {"A": {"type": ["integer", "null"]}}},
            {"type": "integer"},
        ),
    ],
)
def test_type_beside_other_schemas_holds_as_well(schema: dict[str, Any], enforced: dict[str, Any]):
    assert to_grammar_schema(schema, "schema", strict=True).schema == enforced


TAGGED = [
    {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}
    for kind in ("a", "b")
]


@pytest.mark.parametrize(
    ("options", "must_check"),
    [
        ([{"type": "string"}, {"type": "null"}], False),
        (TAGGED, False),
        ([{"enum": [1, 2]}, {"const": 3}], False),
        ([{"$ref": "#/$defs/A"}, {"type": "string"}], False),
        ([{"$ref": "#/$defs/A"}, {"type": "number"}], True),
        ([{"type": "object", "properties": {"a": {}}}, TAGGED[0]], True),
        ([{"type": "string", "maxLength": 3}, {"const": "a"}], True),
    ],
)
def test_alternatives_that_may_overlap_are_checked(options: list[Any], must_check: bool):
    schema = {"oneOf": options, "$defs": {"A": {"type": "integer"}}}
    assert to_grammar_schema(schema, "schema", strict=True).must_check is must_check


def test_only_a_strict_schema_is_refused_for_ignored_keywords():
    assert body_of(UNIQUE, strict=False).format == {"type": "array", "items": {"type": "integer"}}
    with pytest.raises(UnsupportedParameterError):
        body_of(UNIQUE, strict=True)


@pytest.mark.parametrize(
    ("schema", "left_out"),
    [
        (UNIQUE, ["schema.uniqueItems"]),
        ({"type": "number", "minimum": 5, "maximum": 6}, ["schema.minimum", "schema.maximum"]),
        (
            {"properties": {"a": {"propertyNames": {"maxLength": 3}}}},
            ["schema.properties.a.propertyNames"],
        ),
        ({"type": "string", "format": "int32"}, ["schema.format"]),
        ({"type": "string", "pattern": None}, ["schema.pattern"]),
        ({"type": "string", "neverHeardOf": 1}, ["schema.neverHeardOf"]),
        ({"type": "nonsense"}, ["schema.type"]),
        ({"$defs": {"A": UNIQUE}, "$ref": "#/$defs/A"}, ["schema.$defs.A.uniqueItems"]),
        ({"type": "array", "items": False}, []),
        ({"type": "integer", "title": "T", "minLength": 3, "maximum": 2**63 - 1}, []),
    ],
)
def test_keyword_of_a_loose_schema_that_is_not_enforced_is_named(
    schema: dict[str, Any], left_out: list[str]
):
    assert list(rewritten(schema).left_out) == left_out


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "minimum": 1.5, "maximum": 3.5}, {"minimum": 2, "maximum": 3}),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, {"minimum": 2}),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": 1}, {"minimum": 2}),
        ({"type": "integer", "exclusiveMaximum": 2.5, "maximum": 9}, {"maximum": 2}),
        ({"type": "integer", "minimum": 0, "maximum": 2**64}, {"minimum": 0}),
        ({"type": "string", "minLength": 3, "maxLength": 5.0}, {"minLength": 3, "maxLength": 5}),
        ({"type": "string", "minLength": 0}, {}),
        ({"type": "array"}, {}),
        ({"type": "array", "items": True, "maxItems": 2}, {"items": ANY, "maxItems": 2}),
        ({"type": "array", "items": False}, {"items": ANY, "maxItems": 0}),
        ({"type": "array", "items": [{"type": "null"}]}, {"prefixItems": [{"type": "null"}]}),
        (
            {"type": "object", "properties": {"a": True, "b": False}, "required": ["a", "c"]},
            {"properties": {"a": ANY, "c": ANY}, "required": ["a", "c"]},
        ),
        (
            {"type": "object", "properties": {}, "additionalProperties": {}},
            {},
        ),
        ({"type": "object", "additionalProperties": False}, CLOSED),
        ({"type": "object", "required": True}, {}),
    ],
)
def test_odd_values_are_rewritten(schema: dict[str, Any], expected: dict[str, Any]):
    assert rewritten(schema).schema == {"type": schema["type"]} | expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, ANY),
        ({}, ANY),
        ({"description": "anything"}, ANY),
        ({"minLength": 3}, {"type": "string", "minLength": 3}),
        ({"anyOf": [True, {"type": "null"}, False]}, {"anyOf": [ANY, {"type": "null"}]}),
        ({"oneOf": [{"const": 1}], "type": "integer"}, {"anyOf": [{"const": 1}]}),
        ({"enum": ["q", 1, None], "type": "string"}, {"enum": ["q"]}),
        ({"allOf": [{"type": "string"}], "description": "D"}, {"type": "string"}),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}}, {"required": ["a"]}]},
            {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
        ),
        (
            {"definitions": {"a/b": {"type": "null"}}, "$ref": "#/definitions/a~1b"},
            {"$ref": "#/$defs/d0", "$defs": {"d0": {"type": "null"}}},
        ),
        (UNNAMED, {"$ref": "#/$defs/d0", "$defs": {"d0": UNNAMED}}),
    ],
)
def test_schema_is_written_in_terms_that_ollama_reads(schema: Any, expected: dict[str, Any]):
    assert rewritten(schema, strict=schema is not True).schema == expected


def test_schema_that_refers_to_itself_has_a_definition():
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    definition = {"type": "object", "properties": {"next": {"$ref": "#/$defs/d0"}}}
    assert rewritten(tree).schema == definition | {"$defs": {"d0": definition}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/missing"},
        {"$defs": {"A": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"},
        {"$defs": {"A": {"allOf": [{"$ref": "#/$defs/A"}, {"title": "A"}]}}, "$ref": "#/$defs/A"},
        {"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}, {}]}}, "$ref": "#/$defs/A"},
        {"enum": ["a"], "type": "integer"},
    ],
)
def test_strict_schema_without_a_value_is_the_callers_mistake(schema: dict[str, Any]):
    assert rewritten(schema).left_out
    with pytest.raises(InvalidRequestError) as caught:
        rewritten(schema, strict=True)
    assert type(caught.value) is InvalidRequestError
    assert caught.value.param is not None
    assert caught.value.param.startswith("schema")


@pytest.mark.parametrize(
    ("schema", "must_check"),
    [
        ({"type": "number", "minimum": 5}, True),
        ({"maximum": 5}, True),
        ({"type": ["integer", "number"], "exclusiveMaximum": 5}, True),
        ({"type": "string", "maxLength": 100_000}, True),
        ({"enum": ["a", "bc"], "minLength": 2}, True),
        ({"type": "string", "pattern": "^a+$", "minLength": 2}, True),
        ({"type": "string", "pattern": "^a+$", "maxLength": 2}, True),
        ({"type": "string", "pattern": "^a+$", "format": "email"}, True),
        ({"type": "integer", "multipleOf": 3}, True),
        ({"type": "object", "minProperties": 1}, True),
        ({"type": "object", "maxProperties": 1}, True),
        ({"type": "integer", "minimum": 5}, False),
        ({"type": "string", "format": "email"}, False),
        ({"properties": {"a": {}}, "required": ["a"], "minProperties": 1}, False),
        ({"properties": {"a": {}}, "additionalProperties": False, "maxProperties": 1}, False),
        ({"properties": {"a": False, "b": {}}, "additionalProperties": False}, False),
        ({"properties": {"a": False, "b": {}}, "additionalProperties": True}, True),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_bounds_of_numbers_in_a_strict_schema_are_checked(
    schema: dict[str, Any], must_check: bool, strict: bool
):
    assert rewritten(schema, strict=strict).must_check == (must_check and strict)


def test_keyword_that_is_checked_is_not_named_as_ignored():
    schema = {"type": "number", "minimum": 5}
    assert rewritten(schema).left_out == ("schema.minimum",)
    assert rewritten(schema, strict=True).left_out == ()
