"""Tools of a request -> tools of the contract.

A client runs its own tools, and those that Anthropic defines by a type without a schema: bash, text
editor, memory and computer. The model gets the schema that Anthropic documents for them. Tools that
run on Anthropic's servers, such as web search, have nothing here that could run them.

Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview
"""

from collections.abc import Callable, Sequence, Set
from typing import Any

import msgspec
from msgspec import Struct

from adapters import request as contract
from adapters.errors import InvalidRequestError
from adapters.tool_parameters import why_no_call_fits
from proxy.endpoints.anthropic.messages import request as wire
from proxy.endpoints.anthropic.messages.conversation import ToolChanges
from proxy.endpoints.anthropic.messages.request import PromptFields

JSON = dict[str, Any]


class Offer(Struct, frozen=True):
    """The tools that the model may call."""

    tools: tuple[contract.Tool, ...]
    paths: tuple[str, ...]
    """The client's path of each of `tools`."""
    ignored: tuple[str, ...]
    """Paths of the tools that cannot be called here."""


def to_offer(body: PromptFields, changes: ToolChanges) -> Offer:
    """Translate the tools of the request and those that the conversation defines.

    A tool with `defer_loading` is offered once a block names it; if the client leaves the search
    for tools to Anthropic's server, from the beginning.

    Raises:
        InvalidRequestError: a tool of the client has no name or no schema, or that of another; a
            block adds a tool that is not defined.
    """
    sent = {f"tools[{at}]": tool for at, tool in enumerate(body.tools or [])} | changes.defined
    _refuse_unknown(changes, {tool.name for tool in sent.values()})
    searches_here = any((tool.type or "").startswith("tool_search_tool") for tool in sent.values())
    offered: dict[str, contract.Tool] = {}
    ignored: list[str] = []
    for path, tool in sent.items():
        translated = _to_tool(tool, path)
        if translated is None:
            ignored.append(path)
        elif changes.offered.get(translated.name, searches_here or not tool.defer_loading):
            offered[path] = translated
    if len({tool.name for tool in offered.values()}) < len(offered):
        raise InvalidRequestError("Tool names must be unique.", param="tools")
    return Offer(tuple(offered.values()), tuple(offered), tuple(ignored))


def _refuse_unknown(changes: ToolChanges, names: Set[str | None]) -> None:
    for path, name in changes.added.items():
        if name not in names:
            raise InvalidRequestError(f"'{path}' is no tool: {name[:100]!r}.", param=path)


def _to_tool(tool: wire.Tool, path: str) -> contract.Tool | None:
    """Translate a tool; `None` if it runs on Anthropic's servers, or is a set of tools."""
    if tool.input_schema is not None or tool.type in (None, "custom"):
        return _custom(tool, path)
    for prefix, describe in _DEFINED.items():
        if tool.type.startswith(prefix):
            description, schema = describe(tool)
            name = tool.name or prefix.strip("_")
            return contract.Tool(name, description, schema, bool(tool.strict))
    return None


def _custom(tool: wire.Tool, path: str) -> contract.Tool:
    for field in ("name", "input_schema"):
        if getattr(tool, field) is None:
            missing = f"{path}.{field}"
            raise InvalidRequestError(f"Missing required parameter: '{missing}'.", param=missing)
    return contract.Tool(
        tool.name or "", _with_examples(tool), tool.input_schema, bool(tool.strict)
    )


def _with_examples(tool: wire.Tool) -> str | None:
    if not tool.input_examples:
        return tool.description
    examples = [msgspec.json.encode(example).decode() for example in tool.input_examples]
    return "\n".join([tool.description or "", "Examples of its input:", *examples]).lstrip()


def to_choice(body: PromptFields, offer: Offer) -> contract.ToolChoice:
    """Translate `tool_choice`.

    Raises:
        InvalidRequestError: it forces a call that cannot be made here.
    """
    match body.tool_choice:
        case None | wire.AutoChoice():
            return "auto"
        case wire.NoneChoice():
            return "none"
        case wire.AnyChoice():
            if not offer.tools:
                raise _invalid("'tool_choice' is 'any', but 'tools' has no tool to call.")
            _refuse_impossible(range(len(offer.tools)), offer)
            return "required"
        case wire.ToolChoice(name=name):
            matching = [at for at, tool in enumerate(offer.tools) if tool.name == name]
            if not matching:
                raise _invalid(_why_not(name, body))
            _refuse_impossible(matching, offer)
            return contract.NamedTool(name)


def _why_not(name: str, body: PromptFields) -> str:
    if any(tool.name == name for tool in body.tools or []):
        return f"'tool_choice' names '{name[:100]}', which does not run here: call another tool."
    return f"'tool_choice' names '{name[:100]}', which is not among the tools."


def _refuse_impossible(forced: Sequence[int], offer: Offer) -> None:
    """Refuse to force a call that can have no input: an engine could only fail, or invent some."""
    for at in forced:
        if (trouble := why_no_call_fits(offer.tools[at].parameters or {})) is not None:
            path = f"{offer.paths[at]}.input_schema"
            raise InvalidRequestError(f"'{path}' {trouble}: no call can be forced.", param=path)


def allows_parallel(body: PromptFields) -> bool:
    return body.tool_choice is None or not body.tool_choice.disable_parallel_tool_use


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="tool_choice")


# --- tools that Anthropic defines ---


def _object(required: Sequence[str], **properties: JSON) -> JSON:
    return {"type": "object", "properties": properties, "required": list(required)}


def _text(description: str) -> JSON:
    return {"type": "string", "description": description}


def _integer(description: str) -> JSON:
    return {"type": "integer", "description": description}


def _one_of(description: str, *values: str) -> JSON:
    return {"type": "string", "enum": list(values), "description": description}


def _pair(description: str, count: int = 2) -> JSON:
    return {
        "type": "array",
        "items": {"type": "integer"},
        "minItems": count,
        "maxItems": count,
        "description": description,
    }


_LINES = _pair("Only for `view` of a file: the first and the last line, from 1; -1 is the end.")


def _bash(_tool: wire.Tool) -> tuple[str, JSON]:
    """Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/bash-tool"""
    return (
        "Run a command in a bash session that persists between calls.",
        _object(
            (),
            command=_text("The command to run. Required unless the session is restarted."),
            restart={"type": "boolean", "description": "True restarts the session."},
        ),
    )


def _text_editor(tool: wire.Tool) -> tuple[str, JSON]:
    """Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/text-editor-tool

    Versions before 2025-04-29 can undo an edit, and insert the text of `new_str`.
    """
    is_old = (tool.type or "") < "text_editor_20250429"
    commands = ("view", "create", "str_replace", "insert", *(("undo_edit",) if is_old else ()))
    inserted = "new_str" if is_old else "insert_text"
    texts = {
        "file_text": "Only for `create`: the content of the file.",
        "old_str": "Only for `str_replace`: the text to replace, which occurs exactly once.",
        "new_str": "For `str_replace`: the text to put in its place.",
        inserted: "For `insert`: the text to insert.",
    }
    if is_old:
        texts["new_str"] = "For `str_replace` and `insert`: the new text."
    shown = f" A view has at most {tool.max_characters} characters." if tool.max_characters else ""
    return (
        f"View, create and edit text files.{shown}",
        _object(
            ("command", "path"),
            command=_one_of("What to do.", *commands),
            path=_text("Path of the file, or for `view` of a folder."),
            view_range=_LINES,
            insert_line=_integer("Only for `insert`: the line after which to insert; 0: the top."),
            **{name: _text(description) for name, description in texts.items()},
        ),
    )


def _memory(_tool: wire.Tool) -> tuple[str, JSON]:
    """Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/memory-tool"""
    commands = ("view", "create", "str_replace", "insert", "delete", "rename")
    return (
        "Read and write files below /memories, which are kept between conversations. Look there "
        "before a task, and note what later conversations need.",
        _object(
            ("command",),
            command=_one_of("What to do.", *commands),
            path=_text("Path below /memories; for all commands but `rename`."),
            view_range=_LINES,
            file_text=_text("Only for `create`: the content of the file."),
            old_str=_text("Only for `str_replace`: the text to replace."),
            new_str=_text("Only for `str_replace`: the text to put in its place."),
            insert_line=_integer("Only for `insert`: the line after which to insert; 0: the top."),
            insert_text=_text("Only for `insert`: the text to insert."),
            old_path=_text("Only for `rename`: the present path."),
            new_path=_text("Only for `rename`: the new path."),
        ),
    )


_ACTIONS = (
    "key",
    "type",
    "mouse_move",
    "left_click",
    "left_click_drag",
    "right_click",
    "middle_click",
    "double_click",
    "screenshot",
    "cursor_position",
)
"""Actions of the version 2024-10-22."""
_LATER_ACTIONS = (
    "left_mouse_down",
    "left_mouse_up",
    "triple_click",
    "scroll",
    "hold_key",
    "wait",
)
"""Actions added in the version 2025-01-24."""


def _computer(tool: wire.Tool) -> tuple[str, JSON]:
    """Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/computer-use-tool"""
    properties = {
        "coordinate": _pair("x and y of the mouse, in pixels from the upper left corner."),
        "text": _text("For `type`: the text. For `key` and `hold_key`: keys such as ctrl+s."),
    }
    actions = _ACTIONS
    if (tool.type or "") >= "computer_20250124":
        actions += _LATER_ACTIONS
        properties |= {
            "start_coordinate": _pair("For `left_click_drag`: where it begins."),
            "scroll_direction": _one_of("For `scroll`.", "up", "down", "left", "right"),
            "scroll_amount": _integer("For `scroll`: the number of steps."),
            "duration": {"type": "number", "description": "For `hold_key` and `wait`: seconds."},
        }
    if tool.enable_zoom:
        actions += ("zoom",)
        properties["region"] = _pair("For `zoom`: x and y of two corners.", 4)
    size = ""
    if tool.display_width_px is not None and tool.display_height_px is not None:
        size = f" It has {tool.display_width_px} x {tool.display_height_px} pixels."
    return (
        f"Use the screen, mouse and keyboard of a computer.{size}",
        _object(("action",), action=_one_of("What to do.", *actions), **properties),
    )


_DEFINED: dict[str, Callable[[wire.Tool], tuple[str, JSON]]] = {
    "bash_2": _bash,
    "text_editor_2": _text_editor,
    "memory_2": _memory,
    "computer_2": _computer,
}
"""Beginning of a type, up to its date -> description and schema of the tool."""
