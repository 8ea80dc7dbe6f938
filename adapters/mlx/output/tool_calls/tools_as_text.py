"""Tools for a model whose template shows neither tools, nor calls, nor results: told in words.

Calls are written as `PLAIN_JSON` has them, in what is told and in what a grammar then allows.
"""

import json
from collections.abc import Mapping

from msgspec.structs import replace

from adapters.request import Message, TextPart, Tool


def tools_as_text(
    messages: tuple[Message, ...], tools: tuple[Tool, ...], *, forced: bool
) -> tuple[Message, ...]:
    """The same chat without tool calls and tool messages; `tools` are those that may be called.

    They are told at the head of the first message, so that the next turn has the same beginning.
    """
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    told = [_in_words(message, names) for message in messages]
    if not tools:
        return tuple(told)
    instruction = TextPart(_instruction(tools, forced=forced))
    first = next((at for at, m in enumerate(told) if m.role in ("system", "user")), None)
    if first is None:
        return (Message(role="user", content=(instruction,)), *told)
    told[first] = replace(told[first], content=(instruction, *told[first].content))
    return tuple(told)


def _in_words(message: Message, names: Mapping[str, str]) -> Message:
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
