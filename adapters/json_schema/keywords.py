"""The keywords of a JSON schema that hold other schemas, and its types."""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Node = Any
"""A schema: an object, or True for any value and False for none."""

DEFINITIONS = ("$defs", "definitions")
MAPS = ("properties", "patternProperties")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
SINGLES = ("items", "additionalItems", "additionalProperties")

KEYWORDS_OF: Mapping[str, tuple[str, ...]] = {
    "object": (
        *("properties", "required", "additionalProperties"),
        *("patternProperties", "minProperties", "maxProperties"),
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""The keywords of a type, which imply it where `type` is absent."""


def all_schemas(schema: Node) -> Iterator[dict[str, Any]]:
    """Yield `schema` and every schema in it, but `true` and `false`; no value is trusted."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword, value in schema.items():
        inner: Any = ()
        if keyword in (*MAPS, *DEFINITIONS) and isinstance(value, dict):
            inner = value.values()
        elif keyword in (*LISTS, *SINGLES):
            inner = value if isinstance(value, list) else [value]
        for node in inner:
            yield from all_schemas(node)


def is_number(value: Any) -> bool:
    """True for the numbers of JSON: a boolean is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


IS_OF: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": is_number,
    "integer": lambda value: is_number(value) and value % 1 == 0,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
"""True where a value is of a type of JSON Schema."""
