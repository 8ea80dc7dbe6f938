"""Grammar of arguments that are written one by one, each with its key, in llguidance's Lark.

    arguments_0: NEXT_0
    NEXT_0: KEY_0 VALUE_0 NEXT_1            a required argument
    NEXT_1: KEY_1 VALUE_1 NEXT_2 | NEXT_2   an optional one

A string ends with the first occurrence of the text behind it. Any other value is JSON.
"""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
import json
from collections.abc import Callable
from typing import Any

from adapters.mlx.output.tool_calls.syntax import KEY, Parameters
from adapters.mlx.output.tool_calls.tagged_calls import is_string

_OF_OBJECT = frozenset(
    ("type", "properties", "required", "additionalProperties", "description", "title", "$schema")
)
_OF_STRING = frozenset(
    ("type", "enum", "const", "minLength", "maxLength", "description", "title", "default")
)


def can_be_tagged(schema: dict[str, Any]) -> bool:
    """Return whether the arguments of this schema can be enforced one by one.

    Strings with a pattern or a format cannot, nor values that may be a string or something else.
    """
    if schema.keys() - _OF_OBJECT or schema.get("additionalProperties"):
        return False
    properties = schema.get("properties") or {}
    if not set(schema.get("required") or ()) <= set(properties):
        return False
    return all(isinstance(value, dict) and _is_clear(value) for value in properties.values())


def _is_clear(schema: dict[str, Any]) -> bool:
    if is_string(schema):
        return not schema.keys() - _OF_STRING
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    has_reference = '"$ref"' in json.dumps(schema)
    return bool(kind) and "string" not in kinds and not has_reference


def to_rules(
    name: str, schema: dict[str, Any], parameters: Parameters, literal: Callable[[str], str]
) -> str:
    """Write the rule `name`, the arguments of a call, in the order in which they are declared.

    `schema`: bounded, of which `can_be_tagged` is true. `literal` writes a text in Lark.
    """
    required = frozenset(schema.get("required") or ())
    between = literal(parameters.between)
    rules: list[str] = []
    # The bounds of a schema may refer to definitions of their own.
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    keys = list(schema.get("properties") or {})
    for number, (key, value) in enumerate((schema.get("properties") or {}).items()):
        one, rest = f"{name}_{number}", f"{name}_{number + 1}"
        value = {**definitions, **value}
        rules.append(_argument(f"{one}_value", key, value, parameters, literal))
        for state, before in (("first", ""), ("later", between)):
            written = f"{before} {one}_value {rest}_later"
            optional = "" if key in required else f" | {rest}_{state}"
            rules.append(f"{one}_{state}: {written}{optional}\n")
    end = f"{name}_{len(keys)}"
    return f"{name}: {name}_0_first\n" + "".join(rules) + f'{end}_first: ""\n{end}_later: ""\n'


def _argument(
    name: str,
    key: str,
    schema: dict[str, Any],
    parameters: Parameters,
    literal: Callable[[str], str],
) -> str:
    """Write the rules of one argument."""
    is_text = is_string(schema)
    around = parameters.string if is_text else parameters.other
    head = literal(f"{around.head}{key}{around.middle}")
    tail = literal(around.tail.replace(KEY, key))
    if schema.get("type") == "boolean" and parameters.python_booleans:
        # Models that are shown Python's words write JSON's as well.
        return f'{name}: {head} ("True" | "False" | "true" | "false") {tail}\n'
    if not is_text or parameters.strings_are_json:
        definition = json.dumps({"x-guidance": {"whitespace_flexible": False}, **schema})
        return f"{name}: {head} {name}_json {tail}\n{name}_json: %json {definition}\n"
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if values:
        choices = " | ".join(literal(value) for value in values)
        return f"{name}: {head} ({choices}) {tail}\n"
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    return f"{name}: {head} {name}_text\n{name}_text[lazy]: /(?s:.{{{least},{most}}})/ {tail}\n"
