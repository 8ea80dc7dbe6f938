"""Tools as plain text, for models without tools in their chat template."""

from msgspec.structs import replace

from adapters.mlx.output.tool_calls.syntax import PLAIN_JSON, ToolSyntax
from adapters.request import Message, TextPart, Tool, ToolCall
from adapters.tool_description import describe_tools


def with_tools_as_text(
    messages: tuple[Message, ...],
    tools: tuple[Tool, ...],
    syntax: ToolSyntax | None,
    *,
    forced: bool,
) -> tuple[Message, ...]:
    """Add a description of `tools`, and of how to call them, to the first message of the user.

    It is the first so that later turns share a prefix. `syntax`: the notation of calls that the
    template writes, if it writes any; else they are JSON objects (`PLAIN_JSON`).
    """
    own = None if syntax is PLAIN_JSON or syntax is None or not syntax.json else syntax

    def write(name: str, arguments: str) -> str:
        if own is None:
            return f'{{"name": "{name}", "arguments": {arguments}}}'
        return own.write((ToolCall("", name, arguments),))

    words = TextPart(describe_tools(tools, write, forced=forced, is_json=own is None))
    first = next((at for at, m in enumerate(messages) if m.role == "user"), None)
    if first is None:
        begin = next((at for at, m in enumerate(messages) if m.role != "system"), len(messages))
        return (*messages[:begin], Message(role="user", content=(words,)), *messages[begin:])
    told = list(messages)
    told[first] = replace(messages[first], content=(words, *messages[first].content))
    return tuple(told)
