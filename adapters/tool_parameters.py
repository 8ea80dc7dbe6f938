"""Schemas of tools that no call can match: an engine forced to call one could only fail."""

from typing import Any, cast

_VALUES = ("const", "default", "enum", "example", "examples")
"""Keywords with values that are data, not schemas."""


def why_no_call_fits(parameters: dict[str, Any]) -> str | None:
    """Return what is wrong with the schema of a tool's arguments, `None` if a call can match it.

    The text continues a sentence that begins with the path of the schema.
    """
    if _has_empty_enum(parameters):
        return "has an empty 'enum'"
    kind: Any = parameters.get("type", "object")
    kinds = cast(list[Any], kind) if isinstance(kind, list) else [kind]
    values: Any = parameters.get("enum", [parameters.get("const", {})])
    has_object = isinstance(values, list) and dict in map(type, cast(list[Any], values))
    return None if "object" in kinds and has_object else "is not the schema of an object"


def _has_empty_enum(schema: Any) -> bool:
    """Look for `enum: []` in `schema`, but not in values that it names."""
    match schema:
        case {"enum": []}:
            return True
        case dict():
            parts = cast(dict[str, Any], schema).items()
            return any(_has_empty_enum(part) for name, part in parts if name not in _VALUES)
        case list():
            return any(map(_has_empty_enum, cast(list[Any], schema)))
        case _:
            return False
