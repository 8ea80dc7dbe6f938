"""Tools in words, for models without tools in their chat template."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from adapters.request import Tool

_VALUES: Mapping[str, Any] = {
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
}
"""Values of an example by the type of a property; others are texts."""
_MOST = 3
"""Properties of an example, where none is required."""


def describe_tools(
    tools: tuple[Tool, ...], write: Callable[[str, str], str], *, forced: bool, is_json: bool = True
) -> str:
    """Describe `tools`, and how to call them; `write` writes a call of a name with JSON arguments.

    The words count: before the question, with the example, SmolLM2-135M begins a call with a
    probability of 0.2 to 0.5 where one helps, and of 0.05 at most where none does. Where the form
    was described, or the text stood in the system message, it was 0.01 to 0.08 in both cases.
    """
    functions = "\n".join(
        json.dumps(
            {"name": t.name, "description": t.description, "parameters": t.parameters},
            ensure_ascii=False,
        )
        for t in tools
    )
    what = "a JSON object like this one" if is_json else "a call like this one"
    when = "Answer now" if forced else "If one of them helps, answer"
    example = write(tools[0].name, _example_arguments(tools[0]))
    how = f"{when} with nothing but {what}:\n{example}"
    return f"These functions can be called:\n{functions}\n{how}"


def _example_arguments(tool: Tool) -> str:
    parameters = tool.parameters or {}
    properties = _of_kind(dict, parameters.get("properties"))
    required = _of_kind(list, parameters.get("required"))
    names = [name for name in required if name in properties] or [*properties][:_MOST]
    return json.dumps({name: _value(properties[name]) for name in names}, ensure_ascii=False)


def _value(schema: object) -> Any:
    kind = _of_kind(dict, schema).get("type")
    return _VALUES.get(kind, "...") if isinstance(kind, str) else "..."


def _of_kind(kind: type[Any], value: object) -> Any:
    """Return `value`, or an empty `kind` where a schema has something else there."""
    return value if isinstance(value, kind) else kind()
