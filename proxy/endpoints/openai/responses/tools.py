"""Tools of the Responses API, as the model sees them and back.

The model sees functions. A custom tool is a function of one text; a tool of a namespace has a flat
name with that of its namespace, which `Toolbox.offered` maps back. Built-in tools and unknown types
are ignored unless a call of one is forced: clients declare them beside their functions.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from msgspec import Meta, Struct

from adapters import request as contract
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from proxy.endpoints.openai.responses.items import JSON
from proxy.endpoints.tools import GrammarDefinition, check_forced, custom_tool, named_tool
from proxy.http.body import convert, unknown_fields

MAX_NAME = 64
"""Characters of a flat name, which OpenAI allows for the name of a function."""
_HASH = 8
"""Hexadecimal digits at the end of a name that was changed."""
_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.-]")

Name = Annotated[str, Meta(min_length=1, max_length=256)]
S = TypeVar("S")


class FunctionTool(Struct, kw_only=True):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: JSON | None = None
    strict: bool | None = None
    """Absent: strict as far as the schema can be enforced."""
    output_schema: JSON | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None


class TextFormat(Struct, kw_only=True, tag_field="type", tag="text"):
    pass


class GrammarFormat(GrammarDefinition, tag_field="type", tag="grammar"):
    pass


class CustomTool(Struct, kw_only=True):
    type: Literal["custom"]
    name: Name
    description: str | None = None
    format: TextFormat | GrammarFormat | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None


class NamespaceTool(Struct, kw_only=True):
    type: Literal["namespace"]
    name: Name
    description: str | None = None
    tools: list[JSON]


class Offered(Struct, frozen=True, kw_only=True):
    """A tool that the model may call."""

    tool: contract.Tool
    name: str
    """The name that the client gave it."""
    namespace: str | None = None
    is_custom: bool = False
    path: str
    """The client's path of the tool."""


class Toolbox(Struct, frozen=True, kw_only=True):
    offered: dict[str, Offered] = {}
    """Flat name -> tool."""
    echo: tuple[JSON, ...] = ()
    """The tools as the answer repeats them."""
    ignored: tuple[str, ...] = ()
    """Paths of the tools, and of fields of tools, without effect."""

    @property
    def tools(self) -> tuple[contract.Tool, ...]:
        return tuple([offered.tool for offered in self.offered.values()])

    def flat_name(self, name: str, namespace: str | None) -> str:
        """Return the name under which the model knows a tool, offered now or called before."""
        for flat, offered in self.offered.items():
            if offered.name == name and (offered.namespace or None) == (namespace or None):
                return flat
        return flat_name(namespace, name)


class ToolList(Struct, frozen=True):
    path: str
    tools: Sequence[JSON]
    may_repeat: bool = False
    """Tools of earlier lists are left out."""


def to_toolbox(lists: Sequence[ToolList]) -> Toolbox:
    """Read the lists of tools of a request.

    Raises:
        InvalidRequestError: a tool is malformed, or two have the same name.
        UnsupportedParameterError: a tool cannot be honoured; `param` is its path.
    """
    offered: dict[str, Offered] = {}
    echo: list[JSON] = []
    ignored: list[str] = []
    for each in lists:
        for at, tool in enumerate(each.tools):
            path = f"{each.path}[{at}]"
            found = [*_read(tool, path, ignored)]
            for one in found:
                flat = one.tool.name
                if flat in offered and each.may_repeat:
                    continue
                if flat in offered:
                    raise InvalidRequestError(
                        f"'{path}' has the name of another tool: '{flat[:100]}'.", param=path
                    )
                offered[flat] = one
            if not found and tool.get("type") != "namespace":
                ignored.append(path)
            echo.append(_echo(tool))
    return Toolbox(offered=offered, echo=tuple(echo), ignored=tuple(ignored))


def flat_name(namespace: str | None, name: str) -> str:
    """Join namespace and name to the name of a function.

    A name that is too long, or has other characters, ends with a hash, so that it stays unique.
    """
    if not namespace:
        return name
    joined = f"{namespace}__{name}"
    flat = _OTHER_CHARACTERS.sub("_", joined)
    if flat == joined and len(flat) <= MAX_NAME:
        return flat
    digest = hashlib.sha256(f"{len(namespace)}:{joined}".encode()).hexdigest()[:_HASH]
    return f"{flat[: MAX_NAME - _HASH - 1]}_{digest}"


def _read(
    tool: JSON, path: str, ignored: list[str], within: str | None = None
) -> Iterator[Offered]:
    """Yield what the model is offered of one tool; nothing of a built-in or unknown one."""
    match tool.get("type"):
        case "function":
            yield _function(_as(FunctionTool, tool, path, ignored), path, within)
        case "custom":
            yield _custom(_as(CustomTool, tool, path, ignored), path, within)
        case "namespace" if within is None:
            space = _as(NamespaceTool, tool, path, ignored)
            for at, inner in enumerate(space.tools):
                yield from _read(inner, f"{path}.tools[{at}]", ignored, space.name)
        case "mcp" if tool.get("server_url") is not None:
            param = f"{path}.server_url"
            raise UnsupportedParameterError(f"'{param}' is not supported.", param=param)
        case str():
            return
        case _:
            raise InvalidRequestError(f"'{path}.type' must be a string.", param=f"{path}.type")


def _as(kind: type[S], tool: JSON, path: str, ignored: list[str]) -> S:
    decoded = convert(tool, kind, path)
    ignored.extend(f"{path}.{name}" for name in unknown_fields(tool, decoded))
    return decoded


def _function(tool: FunctionTool, path: str, namespace: str | None) -> Offered:
    function = contract.Tool(
        flat_name(namespace, tool.name),
        tool.description,
        tool.parameters,
        strict=bool(tool.strict),
        prefers_strict=tool.strict is None,
    )
    return Offered(tool=function, name=tool.name, namespace=namespace, path=path)


def _custom(tool: CustomTool, path: str, namespace: str | None) -> Offered:
    grammar = tool.format if isinstance(tool.format, GrammarFormat) else None
    function = custom_tool(flat_name(namespace, tool.name), tool.description, grammar)
    return Offered(tool=function, name=tool.name, namespace=namespace, is_custom=True, path=path)


def _echo(tool: JSON) -> JSON:
    """Repeat a tool; the schema of an answer requires fields that requests leave out."""
    match tool.get("type"):
        case "function":
            return {"description": None, "parameters": None, "strict": True, **tool}
        case "namespace":
            inner: list[Any] = tool.get("tools", [])
            return {**tool, "tools": [_echo(each) for each in inner]}
        case _:
            return tool


def to_tools_and_choice(
    choice: str | JSON | None, toolbox: Toolbox
) -> tuple[tuple[contract.Tool, ...], contract.ToolChoice]:
    """Read `tool_choice`; `allowed_tools` withholds all others.

    Raises:
        InvalidRequestError: it is malformed, names an unknown tool, or no call can be forced.
        UnsupportedParameterError: it forces a built-in tool.
    """
    match choice:
        case {"type": "allowed_tools"}:
            tools = _allowed(choice, toolbox)
            forced = _mode(choice.get("mode", "auto"), tools, "tool_choice.mode")
        case None | str():
            tools = toolbox.tools
            forced = _mode("auto" if choice is None else choice, tools, "tool_choice")
        case {"type": "function" | "custom", "name": str()}:
            tools = toolbox.tools
            forced = named_tool(_flat(choice, toolbox), tools, "tool_choice")
        case {"type": str(kind)} if kind not in ("function", "custom"):
            raise UnsupportedParameterError(
                f"'tool_choice' forces '{kind[:100]}', which is not supported.",
                param="tool_choice",
            )
        case _:
            raise InvalidRequestError(
                "'tool_choice' must be 'none', 'auto', 'required' or an object with 'type'.",
                param="tool_choice",
            )
    paths = {flat: f"{offered.path}.parameters" for flat, offered in toolbox.offered.items()}
    check_forced(tools, forced, paths)
    return tools, forced


def _mode(mode: Any, tools: Sequence[contract.Tool], param: str) -> contract.ToolChoice:
    match mode:
        case "required" if not tools:
            raise InvalidRequestError(
                f"'{param}' is 'required', but there is no tool that can be called.", param=param
            )
        case "none" | "auto" | "required":
            return mode
        case _:
            raise InvalidRequestError(
                f"'{param}' must be 'none', 'auto' or 'required'.", param=param
            )


def _flat(named: JSON, toolbox: Toolbox) -> str:
    """Return the flat name of the tool that an object with `name` names."""
    name = str(named.get("name"))
    namespace = named.get("namespace")
    return toolbox.flat_name(name, namespace if isinstance(namespace, str) else None)


def _allowed(choice: JSON, toolbox: Toolbox) -> tuple[contract.Tool, ...]:
    """Return the tools that `allowed_tools` names; built-in ones cannot be called anyway."""
    path = "tool_choice.tools"
    listed: Any = choice.get("tools")
    if not isinstance(listed, list) or not listed:
        raise InvalidRequestError(f"'{path}' must be a list of tools.", param=path)
    named: list[str] = []
    for each in cast(list[Any], listed):
        match each:
            case {"type": "function" | "custom", "name": str()}:
                named.append(_flat(each, toolbox))
            case {"type": "namespace", "name": str(space)}:
                named += [k for k, tool in toolbox.offered.items() if tool.namespace == space]
            case {"type": str(kind)} if kind not in ("function", "custom"):
                pass
            case _:
                raise InvalidRequestError(f"'{path}' names no tool.", param=path)
    if unknown := set(named) - set(toolbox.offered):
        raise InvalidRequestError(
            f"'tool_choice' allows '{min(unknown)[:100]}', which is not among the tools.",
            param="tool_choice",
        )
    return tuple([tool for tool in toolbox.tools if tool.name in named])
