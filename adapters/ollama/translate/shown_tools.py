"""Parameters of tools in the shape that Ollama's types demand.

They are shown to the model by its template. Ollama refuses a whole request if the schema of one
property is `true`, or `required` is not a list; such values are left out here. The grammar is
built elsewhere.

Source: `ToolFunctionParameters` and `ToolProperty` in Ollama's `api/types.go`.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast


def to_shown_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return `parameters` without the values that Ollama cannot decode."""
    shown = _to_property(dict(parameters))
    if not isinstance(shown.get("type", ""), str):  # Of a property it may be a list.
        shown["type"] = "object"
    return shown


def _to_property(schema: Any) -> dict[str, Any]:
    """Return the schema of a property; `{}` for `true`, `false` and what is no schema."""
    if not isinstance(schema, dict):
        return {}
    shown: dict[str, Any] = {}
    for keyword, value in cast(dict[str, Any], schema).items():
        if keyword == "properties" and isinstance(value, dict):
            properties = cast(dict[str, Any], value)
            shown[keyword] = {name: _to_property(own) for name, own in properties.items()}
        elif keyword == "anyOf" and isinstance(value, list):
            shown[keyword] = [_to_property(branch) for branch in cast(list[Any], value)]
        elif keyword not in _SHAPES or _SHAPES[keyword](value):
            shown[keyword] = value
    return shown


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, str) for n in cast(list[Any], value))


_SHAPES: Mapping[str, Callable[[Any], bool]] = {
    "type": lambda value: isinstance(value, str) or _is_names(value),
    "description": lambda value: isinstance(value, str),
    "required": _is_names,
    "enum": lambda value: isinstance(value, list),
    "properties": lambda value: value is None,
    "anyOf": lambda value: value is None,
}
"""Keyword -> condition under which Ollama decodes its value."""
