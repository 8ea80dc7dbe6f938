"""A call that the model must make: Ollama has no `tool_choice`, so a schema makes it write one.

The schema is `{"name": …, "parameters": …}`, in alphabetical order: on the models that it runs with
llama.cpp's own chat templates Ollama sorts the keys, and the name must come before what is for it.
Exactly one call is forced: small models do not find the end of a list.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, cast
from uuid import uuid4

import msgspec

from adapters.errors import GenerationError, InvalidRequestError
from adapters.events import Event, Finished, TextDelta, ToolCallDelta, ToolCallStarted
from adapters.request import GenerationRequest, Message, NamedTool, TextPart, Tool

_FALSE_START = 200
"""Characters after which a text without a tool's name is not a call."""


def is_forced(request: GenerationRequest) -> bool:
    return request.tool_choice not in ("auto", "none")


def chosen_tools(request: GenerationRequest) -> tuple[Tool, ...]:
    """The tools of which one must be called.

    Raises:
        InvalidRequestError: there is none, or none of the name.
    """
    match request.tool_choice:
        case NamedTool(name=name):
            tools = tuple(tool for tool in request.tools if tool.name == name)
        case _:
            tools = request.tools
    if not tools:
        raise InvalidRequestError("tool_choice asks for a tool that is not given.", param="tools")
    return tools


def call_schema(tools: tuple[Tool, ...]) -> dict[str, Any]:
    """What a call of one of `tools` looks like, as one schema.

    A `$ref` counts from the root, so each is turned to where its schema now lies.
    """
    shared: dict[str, Any] = {}
    branches = [_branch(at, tool, len(tools) == 1, shared) for at, tool in enumerate(tools)]
    schema = branches[0] if len(branches) == 1 else {"anyOf": branches}
    return schema | ({"$defs": shared} if shared else {})


def _branch(at: int, tool: Tool, alone: bool, shared: dict[str, Any]) -> dict[str, Any]:
    place = "#/properties/parameters" if alone else f"#/anyOf/{at}/properties/parameters"
    own: dict[str, Any] = {"type": "object"} | (tool.parameters or {})
    moved = {f"{at}-{name}": part for name, part in _defs_of(own).items()}
    shared.update({name: _turned(part, place, at) for name, part in moved.items()})
    own = {key: part for key, part in own.items() if key != "$defs"}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "parameters": _turned(own, place, at)},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _defs_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    defs: Any = schema.get("$defs")
    return cast(dict[str, Any], defs) if isinstance(defs, dict) else {}


def _turned(part: Any, place: str, at: int) -> Any:
    """`part` of the schema of tool `at`, which lies at `place` now."""
    if isinstance(part, list):
        return [_turned(value, place, at) for value in cast(list[Any], part)]
    if not isinstance(part, dict):
        return part
    turned = {key: _turned(value, place, at) for key, value in cast(dict[str, Any], part).items()}
    ref = turned.get("$ref")
    if isinstance(ref, str) and ref.startswith("#"):
        turned["$ref"] = _turned_ref(ref, place, at)
    return turned


def _turned_ref(ref: str, place: str, at: int) -> str:
    if ref.startswith("#/$defs/"):
        return f"#/$defs/{at}-{ref.removeprefix('#/$defs/')}"
    return place + ref.removeprefix("#")


def in_words(messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> tuple[Message, ...]:
    """A chat for a model whose template shows neither tools, nor calls, nor results.

    The tools are told in the last user message: a system message would stand in for the one in the
    Modelfile.
    """
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    told = [_in_words(message, names) for message in messages]
    asked = TextPart(_instruction(tools))
    last = max((at for at, each in enumerate(told) if each.role == "user"), default=None)
    if last is None:
        return (*told, Message(role="user", content=(asked,)))
    told[last] = msgspec.structs.replace(told[last], content=(*told[last].content, asked))
    return tuple(told)


def _in_words(message: Message, names: Mapping[str, str]) -> Message:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", message.name)
        text = f"The function {name} gave: {message.text}"
        return Message(role="user", content=(TextPart(text),))
    calls = tuple(
        TextPart(f'{{"name": "{call.name}", "parameters": {call.arguments or "{}"}}}')
        for call in message.tool_calls
    )
    return msgspec.structs.replace(message, content=(*message.content, *calls), tool_calls=())


def _instruction(tools: tuple[Tool, ...]) -> str:
    functions = [
        {"name": t.name, "description": t.description, "parameters": t.parameters} for t in tools
    ]
    told = "\n".join(msgspec.json.encode(function).decode() for function in functions)
    return (
        f"Functions that can be called:\n{told}\n"
        'Call one of them. Answer only with {"name": its name, "parameters": its parameters}.'
    )


_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_PARAMETERS = re.compile(r'\s*,\s*"parameters"\s*:\s*')
_STRUCTURE = re.compile(r'\\.|["\\{}\[\]]', re.DOTALL)
"""The characters that decide where a JSON object ends; a lone backslash is cut from its pair."""


class ForcedCallReader:
    """Turns the text of an answer that follows `call_schema` into the events of a call."""

    def __init__(self, tools: tuple[Tool, ...], may_stop: bool) -> None:
        """`may_stop`: the request has stop strings, which may cut the call anywhere."""
        self.emit: Callable[[Event], object] = bool
        """Takes the events of the call; set before the first."""
        self._names = frozenset(tool.name for tool in tools)
        self._may_stop = may_stop
        self._head = ""
        self._named = False
        self._calls = 0
        self._in_arguments = False
        self._complete = False
        """The object of the arguments has ended."""
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def take(self, event: Event) -> object:
        """Emit what `event` of the answer means for the call; true where the reader is behind.

        Raises:
            GenerationError: it is not a call of one of the tools.
        """
        if not isinstance(event, TextDelta):
            return self._take_other(event)
        text = event.text if self._in_arguments else self._read_head(event.text)
        if self._complete or not text:
            return False
        start, self._escaped = int(self._escaped), False
        for found in _STRUCTURE.finditer(text, start):
            match found[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    self._escaped = True
                case "{" | "[" if not self._in_string:
                    self._depth += 1
                case "}" | "]" if not self._in_string:
                    self._depth -= 1
                    if not self._depth:
                        self._complete = True
                        text = text[: found.end()]
                        break
                case _:
                    pass
        return self.emit(ToolCallDelta(0, text))

    def finish(self, finished: Finished) -> Finished:
        """Return the end of the call for the end of the answer.

        Raises:
            GenerationError: there is no complete call.
        """
        if finished.reason == "length":
            return finished
        if self._calls or self._complete:
            return msgspec.structs.replace(finished, reason="tool_calls")
        if self._may_stop:
            return finished
        raise _no_call()

    def _take_other(self, event: Event) -> object:
        if isinstance(event, ToolCallStarted):  # Ollama's own parser took the text for a call.
            self._calls += 1
            if event.name not in self._names:
                raise _no_call()
        return self.emit(event)

    def _read_head(self, text: str) -> str:
        """Read up to the arguments; return the part of `text` that belongs to them."""
        self._head += text
        if not self._named and (found := _NAME.match(self._head)):
            self._named = True
            self._head = self._head[found.end() :]
            name = msgspec.json.decode(found[1], type=str)
            if name not in self._names:
                raise _no_call()
            self.emit(ToolCallStarted(0, f"call_{uuid4().hex[:24]}", name))
        if (
            self._named
            and (found := _PARAMETERS.match(self._head))
            and found.end() < len(self._head)
        ):
            self._in_arguments = True
            return self._head[found.end() :]
        if len(self._head) > _FALSE_START + max(map(len, self._names)):
            raise _no_call()
        return ""


def _no_call() -> GenerationError:
    return GenerationError("The model did not write the tool call that the request demands.")
