"""Tools that two or more dialects share: tools called with a text, and forced calls.

A custom tool is called with a text in place of arguments. The model sees a function of one string.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from adapters.errors import InvalidRequestError
from adapters.json_text import complete_text
from adapters.request import Lark, NamedTool, Regex, Tool, ToolChoice
from adapters.tool_parameters import why_no_call_fits

TEXT_INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The text to send to the tool."}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The parameters of a custom tool, as the model sees it."""


class GrammarDefinition(Struct):
    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Meta(min_length=1)]


def custom_tool(name: str, description: str | None, grammar: GrammarDefinition | None) -> Tool:
    """Create a function of one string, which matches `grammar` if there is one."""
    form: Regex | Lark | None = None
    if grammar is not None:
        is_regex = grammar.syntax == "regex"
        form = Regex(grammar.definition) if is_regex else Lark(grammar.definition)
        syntax = "regular expression" if is_regex else "Lark grammar"
        told = f"The input matches this {syntax}:\n{grammar.definition}"
        description = f"{description}\n{told}" if description else told
    return Tool(name, description, TEXT_INPUT, input_format=form)


class _Input(Struct):
    input: str


_BEGIN = re.compile(r'\s*\{\s*"input"\s*:\s*"')


def to_input(arguments: str) -> str:
    """Read the text from the arguments of a custom call; one that the limit has cut is read as far
    as it goes, and what is no such object is passed on as it is."""
    try:
        return msgspec.json.decode(arguments, type=_Input).input
    except msgspec.DecodeError:
        begin = _BEGIN.match(arguments)
    if begin is not None:
        return complete_text(arguments[begin.end() :])[0]
    is_cut_before = '{"input":"'.startswith("".join(arguments.split()))
    return "" if is_cut_before else arguments


class InputReader:
    """Reads the text of a custom call while its arguments are written."""

    def __init__(self) -> None:
        self._unread = ""
        self._begun = False
        self._pieces: list[str] = []
        self._arguments: list[str] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def rest(self) -> str:
        """Return the text after `text` once the arguments have ended, however they are written."""
        whole, known = to_input("".join(self._arguments)), self.text
        return whole.removeprefix(known) if whole.startswith(known) else ""

    def feed(self, arguments: str) -> str:
        """Return the text that a piece of arguments adds; empty while it is unknown."""
        self._arguments.append(arguments)
        self._unread += arguments
        if not self._begun:
            begin = _BEGIN.match(self._unread)
            if begin is None:
                return ""
            self._begun = True
            self._unread = self._unread[begin.end() :]
        text, self._unread = complete_text(self._unread)
        self._pieces.append(text)
        return text


def to_arguments(text: str) -> str:
    """Write the arguments of a custom call, as the model wrote them."""
    return msgspec.json.encode(_Input(text)).decode()


def named_tool(name: str, tools: Sequence[Tool], param: str) -> NamedTool:
    """Force the tool `name`.

    Raises:
        InvalidRequestError: there is no such tool; `param` is the field with the name.
    """
    if name not in {tool.name for tool in tools}:
        raise InvalidRequestError(
            f"'{param}' names '{name[:100]}', which is not among the tools.", param=param
        )
    return NamedTool(name)


def check_forced(tools: Sequence[Tool], choice: ToolChoice, paths: Mapping[str, str]) -> None:
    """Refuse to force a call that can have no arguments: an engine could only fail, or invent some.

    `paths` maps the name of a tool to the client's path of its parameters.

    Raises:
        InvalidRequestError: a schema is not of an object, or has an empty `enum`; `param` is it.
    """
    if choice in ("auto", "none"):
        return
    for tool in tools:
        if isinstance(choice, NamedTool) and choice.name != tool.name:
            continue
        trouble = why_no_call_fits(tool.parameters or {})
        if trouble is not None:
            path = paths[tool.name]
            raise InvalidRequestError(f"'{path}' {trouble}: no call can be forced.", param=path)
