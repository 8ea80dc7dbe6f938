"""A call that the model must make: Ollama has no `tool_choice`, so a schema makes it write one.

The schema is `{"name": …, "parameters": …}`, in alphabetical order: on the models that it runs with
llama.cpp's own chat templates Ollama sorts the keys, and the name must come before what is for it.
Exactly one call is forced: small models do not find the end of a list.
"""

import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any, cast
from uuid import uuid4

import msgspec

from adapters.errors import GenerationError, InvalidRequestError
from adapters.events import Event, Finished, TextDelta, ToolCallDelta, ToolCallStarted
from adapters.request import GenerationRequest, Message, NamedTool, TextPart, Tool

_FALSE_START = 200
"""Characters after which a text without a name is no call."""


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


class ForcedCallReader:
    """Turns the text of an answer that keeps to `call_schema` into the events of a call."""

    def __init__(self, tools: tuple[Tool, ...], may_stop: bool) -> None:
        """`may_stop`: a stop string was asked for, and may cut the call anywhere."""
        self._names = frozenset(tool.name for tool in tools)
        self._may_stop = may_stop
        self._head = ""
        self._named = False
        self._value: _Value | None = None
        self._calls = 0

    def events(self, event: Event) -> Iterator[Event]:
        """What `event` of the answer means.

        Raises:
            GenerationError: it is no call of one of the tools.
        """
        match event:
            case TextDelta(text=text):
                yield from self._read(text)
            case ToolCallStarted(name=name):  # Ollama's own parser took the text for a call.
                self._calls += 1
                if name not in self._names:
                    raise _no_call()
                yield event
            case Finished():
                yield self._finished(event)
            case _:
                yield event

    def _read(self, text: str) -> Iterator[Event]:
        if self._value is None:
            text = yield from self._read_head(text)
        if self._value is not None and (piece := self._value.feed(text)):
            yield ToolCallDelta(0, piece)

    def _read_head(self, text: str) -> Generator[Event, None, str]:
        """Read up to the arguments; returns what of `text` belongs to them."""
        self._head += text
        if not self._named and (found := _NAME.match(self._head)):
            self._named = True
            self._head = self._head[found.end() :]
            yield self._started(msgspec.json.decode(found[1], type=str))
        if (
            self._named
            and (found := _PARAMETERS.match(self._head))
            and found.end() < len(self._head)
        ):
            self._value = _Value()
            return self._head[found.end() :]
        if len(self._head) > _FALSE_START + max(map(len, self._names)):
            raise _no_call()
        return ""

    def _started(self, name: str) -> ToolCallStarted:
        if name not in self._names:
            raise _no_call()
        return ToolCallStarted(0, f"call_{uuid4().hex[:24]}", name)

    def _finished(self, event: Finished) -> Finished:
        if event.reason == "length":
            return event
        if self._calls or (self._value is not None and self._value.complete):
            return msgspec.structs.replace(event, reason="tool_calls")
        if self._may_stop:
            return event
        raise _no_call()


class _Value:
    """The end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self.complete = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> str:
        """What of `text` belongs to the object."""
        if self.complete:
            return ""
        for at, character in enumerate(text):
            self._step(character)
            if self._depth == 0:
                self.complete = True
                return text[: at + 1]
        return text

    def _step(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        else:
            self._depth += (character in "{[") - (character in "}]")


def _no_call() -> GenerationError:
    return GenerationError("The model did not write the call it was asked for.")
