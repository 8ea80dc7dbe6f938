"""References of a JSON schema that no value can keep to."""

from typing import Any

import pytest

from adapters.json_schema.reading import read_schema

LOOP = {"type": "object", "properties": {"next": {"$ref": "#/$defs/loop"}}, "required": ["next"]}
TREE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}}


def of(schema: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return what is read of `schema` with both definitions, and the paths of its faults."""
    kept, faults = read_schema({**schema, "$defs": {"loop": LOOP, "tree": TREE}})
    del kept["$defs"]
    return kept, [fault.path for fault in faults]


@pytest.mark.parametrize(
    ("schema", "read"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/loop"}}}, {"properties": {"a": False}}),
        ({"items": {"$ref": "#/$defs/loop"}}, {"items": False}),
        (
            {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "null"}]},
            {"anyOf": [False, {"type": "null"}]},
        ),
        ({"additionalProperties": {"$ref": "#/$defs/loop"}}, {"additionalProperties": False}),
    ],
)
def test_endless_value_that_need_not_be_written_is_excluded(schema: Any, read: Any) -> None:
    assert of(schema) == (read, [])


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/tree"},
        {"properties": {"a": {"$ref": "#/$defs/tree"}}, "required": ["a"]},
        {"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"$ref": "#/$defs/tree"}]},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "string", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    ],
)
def test_recursion_with_an_end_is_kept(schema: dict[str, Any]) -> None:
    assert of(schema) == (schema, [])


def test_every_mistake_is_named_and_removed() -> None:
    kept, paths = of(
        {
            "properties": {
                "a": {"$ref": "#/$defs/gone"},
                "b": {"$ref": "#/$defs/loop"},
                "c": {"$ref": "#/properties/b"},
            },
            "required": ["b"],
        }
    )
    assert kept == {"properties": {"a": {}, "b": {}, "c": {}}, "required": ["b"]}
    assert paths == [
        ".properties.a.$ref",
        ".properties.b.$ref",
        ".properties.c.$ref",
        ".$defs.loop.properties.next.$ref",
    ]


def test_what_nothing_refers_to_is_no_mistake() -> None:
    schema = {"type": "null", "$defs": {"a": {"$ref": "#/$defs/gone"}}}
    assert read_schema(schema) == (schema, [])


def test_long_chain_of_references_is_read() -> None:
    chain: dict[str, Any] = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(3000)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**chain, "d3000": {"type": "null"}}}
    assert read_schema(schema) == (schema, [])
