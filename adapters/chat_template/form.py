"""Messages as a Jinja chat template reads them: dictionaries with the keys that it looks for."""

import json
from typing import Any, Literal

from msgspec import Struct

from adapters.request import ImagePart, Message, Tool, ToolCall


class Form(Struct, frozen=True):
    """The keys and types of values that one template reads."""

    arguments: Literal["object", "text"] = "object"
    """Arguments of calls as an object, or as JSON text."""
    flat: bool = False
    """True if name and arguments of a call are beside its `function` too."""
    thought: str = "reasoning_content"
    """Key of the reasoning of a message."""
    empty: Literal["text", "absent", "null"] = "text"
    """The content of a call without text: an empty text, no such key, or null."""
    no_tools: Literal["null", "empty"] = "null"
    """`tools` of a conversation without any: null, or an empty list."""
    parts: bool = False
    """True if the content of every message is a list of parts, else only that with images."""
    image: str | None = None
    """The text in place of an image, for templates that take no parts; `None`: images are parts."""


USUAL = Form()


def to_template_message(message: Message, form: Form = USUAL) -> dict[str, Any]:
    """Convert a message to the dictionary that a template in this form reads."""
    converted: dict[str, Any] = {"role": message.role, "content": _to_content(message, form)}
    if message.reasoning is not None:
        converted[form.thought] = message.reasoning
    if message.tool_calls:
        converted["tool_calls"] = [_to_call(call, form) for call in message.tool_calls]
        if not message.text and form.empty != "text":
            del converted["content"]
    if message.tool_call_id is not None:
        converted["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        converted["name"] = message.name
    if "content" not in converted and form.empty == "null":
        converted["content"] = None
    return converted


def _to_content(message: Message, form: Form) -> str | list[dict[str, str]]:
    """Return the text, or the parts: neighbouring texts joined by newlines, images between them."""
    if not (form.parts or message.has_images):
        return message.text
    parts: list[dict[str, str]] = []
    for part in message.content:
        if isinstance(part, ImagePart):
            parts.append({"type": "image"})
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += f"\n{part.text}"
        else:
            parts.append({"type": "text", "text": part.text})
    if form.image is None:
        # Some templates look at the first part of every message.
        return parts or [{"type": "text", "text": ""}]
    # Empty: the processor finds the places of images without a text.
    marked = parts if form.image else [part for part in parts if part["type"] == "text"]
    return "\n".join(part.get("text", form.image) for part in marked)


def _to_call(call: ToolCall, form: Form) -> dict[str, Any]:
    arguments = call.arguments if form.arguments == "text" else _parsed(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    beside = function if form.flat else {}
    return {"id": call.id, "type": "function", "function": function, **beside}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # Calls of earlier turns may be malformed: they are passed on as text.
        return text


def to_template_tool(tool: Tool) -> dict[str, Any]:
    """Convert a tool to the form that chat templates and mlx-lm's parsers expect."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": tool.parameters or {"type": "object", "properties": {}},
        },
    }
