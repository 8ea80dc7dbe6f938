"""Tools, calls and results as plain text, for models without tools in their chat template.

Calls have the syntax `PLAIN_JSON`, in the instruction as in the grammar that enforces it.
"""

import json
from collections.abc import Mapping

from msgspec.structs import replace

from adapters.request import Message, TextPart, Tool


def tools_as_text(
    messages: tuple[Message, ...], tools: tuple[Tool, ...], *, forced: bool
) -> tuple[Message, ...]:
    """The same chat without tool calls and tool messages; `tools` are those that may be called.

    The first message begins with their description, so that later turns share a prefix.
    """
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    plain = [_as_text(message, names) for message in messages]
    if not tools:
        return tuple(plain)
    instruction = TextPart(_instruction(tools, forced=forced))
    first = next((at for at, m in enumerate(plain) if m.role in ("system", "user")), None)
    if first is None:
        return (Message(role="user", content=(instruction,)), *plain)
    plain[first] = replace(plain[first], content=(instruction, *plain[first].content))
    return tuple(plain)


def _as_text(message: Message, names: Mapping[str, str]) -> Message:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", message.name or "")
        return Message(role="user", content=(TextPart(f"{name} returned: {message.text}"),))
    calls = tuple(
        TextPart(f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}')
        for call in message.tool_calls
    )
    return replace(message, content=(*message.content, *calls), tool_calls=())


def _instruction(tools: tuple[Tool, ...], *, forced: bool) -> str:
    functions = "\n".join(
        json.dumps(
            {"name": t.name, "description": t.description, "parameters": t.parameters},
            ensure_ascii=False,
        )
        for t in tools
    )
    when = "Call one now" if forced else "To call one"
    return (
        f"You can call these functions:\n{functions}\n"
        f'{when}: answer only with {{"name": its name, "arguments": its arguments}}.'
    )
