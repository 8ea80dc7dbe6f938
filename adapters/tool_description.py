"""Tools in words, for models without tools in their chat template."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from adapters.request import Message, TextPart, Tool

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
_FORCED = "Answer now with a call of one of them."
"""A grammar keeps the form of a forced call, and the values of an example would be copied.

Right values of ten calls had a mean log probability of -3.2 with these words, -4.5 with the form
described, and -5.0 with an example (SmolLM2-135M, which wrote `1` and `...` of the example).
"""


def with_described_tools(
    messages: tuple[Message, ...],
    tools: tuple[Tool, ...],
    write: Callable[[str, str], str],
    *,
    forced: bool,
    is_json: bool = True,
) -> tuple[Message, ...]:
    """Describe `tools`, and how to call them, in the first message of the user.

    It is the first so that later turns share a prefix; a system message of their own would replace
    that of the model. Without a message of the user the words are one, after the system messages.
    `write`: writes a call of a name with JSON arguments; `is_json`: what it writes is an object.
    `forced`: a grammar holds the answer to a call; the words then stand before a system message
    that the chat has. Small models copy what is near the end: with the description of `apply_patch`
    behind the client's instructions SmolLM2-135M repeated words of its grammar in three answers of
    four, before them in one of four, and a right patch had a mean log probability of -2.0 instead
    of -2.5. The decision to call, which is still open where nothing is forced, needs them near.
    """
    how = _FORCED if forced else _example_of_a_call(tools[0], write, is_json)
    functions = "\n".join(_as_json(tool) for tool in tools)
    words = TextPart(f"These functions can be called:\n{functions}\n{how}")
    before = ("system", "user") if forced else ("user",)
    first = next((at for at, m in enumerate(messages) if m.role in before), None)
    if first is None:
        begin = next((at for at, m in enumerate(messages) if m.role != "system"), len(messages))
        return (*messages[:begin], Message(role="user", content=(words,)), *messages[begin:])
    told = replace(messages[first], content=(words, *messages[first].content))
    return (*messages[:first], told, *messages[first + 1 :])


def _as_json(tool: Tool) -> str:
    own = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return json.dumps(own, ensure_ascii=False)


def _example_of_a_call(tool: Tool, write: Callable[[str, str], str], is_json: bool) -> str:
    """Before the question, an example counts where the model decides whether it calls.

    SmolLM2-135M begins a call with a probability of 0.2 to 0.5 where one helps, and of 0.05 at
    most where none does. Where the form was described, or the text stood in the system message, it
    was 0.01 to 0.08 in both cases.
    """
    what = "a JSON object like this one" if is_json else "a call like this one"
    example = write(tool.name, _example_arguments(tool))
    return f"If one of them helps, answer with nothing but {what}:\n{example}"


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
