"""Tools as plain text, for models without tools in their chat template."""

import json

from msgspec.structs import replace

from adapters.mlx.output.tool_calls.syntax import PLAIN_JSON, ToolSyntax
from adapters.request import Message, TextPart, Tool, ToolCall


def with_tools_as_text(
    messages: tuple[Message, ...],
    tools: tuple[Tool, ...],
    syntax: ToolSyntax | None,
    *,
    forced: bool,
) -> tuple[Message, ...]:
    """Add a description of `tools`, and of how to call them, to the first message.

    It is the first message so that later turns share a prefix. `syntax`: the notation of calls that
    the template writes, if it writes any; else they are JSON objects (`PLAIN_JSON`).
    """
    instruction = TextPart(_instruction(tools, syntax or PLAIN_JSON, forced=forced))
    first = next((at for at, m in enumerate(messages) if m.role in ("system", "user")), None)
    if first is None:
        return (Message(role="user", content=(instruction,)), *messages)
    told = list(messages)
    told[first] = replace(messages[first], content=(instruction, *messages[first].content))
    return tuple(told)


def _instruction(tools: tuple[Tool, ...], syntax: ToolSyntax, *, forced: bool) -> str:
    functions = "\n".join(
        json.dumps(
            {"name": t.name, "description": t.description, "parameters": t.parameters},
            ensure_ascii=False,
        )
        for t in tools
    )
    when = "Call one now" if forced else "To call one"
    return f"You can call these functions:\n{functions}\n{when}: answer only with {_form(syntax)}."


def _form(syntax: ToolSyntax) -> str:
    if syntax is PLAIN_JSON or not syntax.json:
        return '{"name": its name, "arguments": its arguments}'
    return syntax.write((ToolCall("", "NAME", "ARGUMENTS"),))
