"""Tools as plain text, for models without tools in their chat template."""

from adapters.mlx.output.tool_calls.syntax import PLAIN_JSON, ToolSyntax
from adapters.request import Message, Tool, ToolCall
from adapters.tool_description import with_described_tools


def with_tools_as_text(
    messages: tuple[Message, ...],
    tools: tuple[Tool, ...],
    syntax: ToolSyntax | None,
    *,
    forced: bool,
) -> tuple[Message, ...]:
    """Describe `tools` in `messages`, as `with_described_tools` does.

    `syntax`: the notation of calls that the template writes, if it writes any; else they are JSON
    objects (`PLAIN_JSON`).
    """
    own = None if syntax is PLAIN_JSON or syntax is None or not syntax.json else syntax

    def write(name: str, arguments: str) -> str:
        if own is None:
            return f'{{"name": "{name}", "arguments": {arguments}}}'
        return own.write((ToolCall("", name, arguments),))

    return with_described_tools(messages, tools, write, forced=forced, is_json=own is None)
