"""Forced tool calls: Ollama has no `tool_choice`, so a schema makes the model write a call.

The schema is `{"name": …, "parameters": …}`, in alphabetical order: for models that it runs with
llama.cpp's own chat templates Ollama sorts the keys, and the name must come before its parameters.
Exactly one call is forced: small models do not find the end of a list.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from uuid import uuid4

import msgspec

from adapters.errors import GenerationError, InvalidRequestError
from adapters.events import Event, Finished, TextDelta, ToolCallDelta, ToolCallStarted
from adapters.ollama.translate.grammar_pattern import UnreadablePatternError, to_grammar_pattern
from adapters.ollama.translate.grammar_schema import SchemaRewriter
from adapters.request import GenerationRequest, Lark, Message, NamedTool, Regex, TextPart, Tool
from adapters.tool_description import with_described_tools
from adapters.tool_parameters import why_no_call_fits

_NO_PARAMETERS: dict[str, Any] = {"properties": {}, "additionalProperties": False}
"""A tool without `parameters` takes none: its arguments are `{}`."""
_EMPTY: dict[str, Any] = {"const": {}}
"""The schema of `{}`: the grammar of an object would allow white space in it."""
_FALSE_START = 200
"""Characters after which a text without a tool's name is not a call."""


def is_forced(request: GenerationRequest) -> bool:
    return request.tool_choice not in ("auto", "none")


def may_call(request: GenerationRequest) -> bool:
    """True where the answer is a call or matches a format, as the model decides."""
    return bool(
        request.tools and request.tool_choice == "auto" and request.response_format is not None
    )


def chosen_tools(request: GenerationRequest) -> tuple[Tool, ...]:
    """Return the tools of which one is called.

    Raises:
        InvalidRequestError: there are no tools, or there is no tool of the name.
    """
    match request.tool_choice:
        case NamedTool(name=name):
            tools = tuple(tool for tool in request.tools if tool.name == name)
        case _:
            tools = request.tools
    if not tools:
        raise InvalidRequestError(
            "tool_choice demands a tool that 'tools' does not have.", param="tools"
        )
    return tools


def call_branches(request: GenerationRequest, rewriter: SchemaRewriter) -> list[dict[str, Any]]:
    """Return the schemas of a call of each of the `chosen_tools`.

    Raises:
        InvalidRequestError: no arguments fit the parameters of a tool.
        UnsupportedParameterError: the parameters of a strict tool cannot be enforced.
    """
    return [_branch(request.tools.index(tool), tool, rewriter) for tool in chosen_tools(request)]


def _branch(at: int, tool: Tool, rewriter: SchemaRewriter) -> dict[str, Any]:
    place = f"tools[{at}].function.parameters"
    own: dict[str, Any] = tool.parameters or _NO_PARAMETERS
    trouble = why_no_call_fits(own)
    if trouble is not None:
        raise InvalidRequestError(f"'{place}' {trouble}: no call can be forced.", param=place)
    own = _with_pattern(own, tool.input_format)
    parameters = rewriter.rewrite(own | {"type": "object"}, place, strict=tool.strict)
    if parameters.get("properties") == {} and not parameters.get("additionalProperties"):
        parameters = dict(_EMPTY)
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "parameters": parameters},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _with_pattern(parameters: dict[str, Any], form: Regex | Lark | None) -> dict[str, Any]:
    """Add the format of `input` where a grammar can express it; any format is checked as well."""
    pattern = pattern_of(form)
    if pattern is None:
        return parameters
    text = parameters["properties"]["input"] | {"pattern": pattern}
    return parameters | {"properties": {"input": text}}


@lru_cache(maxsize=16)
def pattern_of(form: Regex | Lark | None) -> str | None:
    """Return the `pattern` of a schema that holds a text to `form`; `None` where there is none."""
    if form is None:
        return None
    try:
        pattern = f"^(?:{_expression_of(form)})$"
        to_grammar_pattern(pattern)
    except UnreadablePatternError:
        return None
    return pattern


def _expression_of(form: Regex | Lark) -> str:
    if isinstance(form, Regex):
        return form.pattern
    # Lark is slow to import.
    from adapters.ollama.translate.lark_pattern import to_expression

    return to_expression(form.grammar)


def in_words(
    messages: tuple[Message, ...], tools: tuple[Tool, ...], *, forced: bool = True
) -> tuple[Message, ...]:
    """Return a chat for a model with a template that shows no tools, calls or results.

    The tools are described as `with_described_tools` does.
    """
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    chat = tuple(_in_words(message, names) for message in messages)
    return with_described_tools(chat, tools, _write_call, forced=forced) if tools else chat


def _in_words(message: Message, names: Mapping[str, str]) -> Message:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", message.name)
        text = f"{f'The function {name}' if name else 'A function'} gave: {message.text}"
        return Message(role="user", content=(TextPart(text),))
    calls = tuple(
        TextPart(_write_call(call.name, call.arguments or "{}")) for call in message.tool_calls
    )
    return msgspec.structs.replace(message, content=(*message.content, *calls), tool_calls=())


def _write_call(name: str, parameters: str) -> str:
    return f'{{"name": "{name}", "parameters": {parameters}}}'


_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_PARAMETERS = re.compile(r'\s*,\s*"parameters"\s*:\s*')
_STRUCTURE = re.compile(r'\\.|["\\{}\[\]]', re.DOTALL)
"""The characters that decide where a JSON object ends; a lone backslash is cut from its pair."""


class CallBegunError(Exception):
    """A call has begun that no grammar holds to its tool; it is generated anew under one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ForcedCallReader:
    """Turns the text of an answer that follows `call_branches` into the events of a call."""

    def __init__(
        self,
        tools: tuple[Tool, ...],
        may_stop: bool,
        *,
        required: bool = True,
        is_free: bool = False,
    ) -> None:
        """`may_stop`: the request has stop strings, which may cut the call anywhere. `required`:
        any other text is an error; otherwise it is the answer. `is_free`: no grammar holds the
        text, so that `CallBegunError` is raised where a call begins."""
        self.emit: Callable[[Event], object] = bool
        """Takes the events of the call; set before the first."""
        self._names = frozenset(tool.name for tool in tools)
        self._may_stop = may_stop
        self._starts = [f'{{"name":"{name}","parameters":' for name in self._names]
        self._is_free = is_free
        self._undecided: list[Event] | None = None if required else []
        """Texts that begin like a call."""
        self._is_text = False
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
        if self._is_text:
            return self.emit(event)
        if not isinstance(event, TextDelta):
            return self._take_other(event)
        if self._undecided is not None:
            return self._decide(event, self._undecided)
        return self._take_text(event)

    def _decide(self, event: TextDelta, undecided: list[Event]) -> object:
        """Hold `event` back until the text is a call or is not."""
        undecided.append(event)
        text = "".join(e.text for e in undecided if isinstance(e, TextDelta))
        compact = "".join(text.split())
        for name, start in zip(self._names, self._starts, strict=True):
            if self._is_free and compact.startswith(start):
                raise CallBegunError(name)
        if any(compact.startswith(start) for start in self._starts):
            self._undecided = None
            return self._take_text(TextDelta(text))
        if any(start.startswith(compact) for start in self._starts):
            return False
        return self._release()

    def _release(self) -> object:
        """Write what was held back, as text."""
        held, self._undecided, self._is_text = self._undecided or (), None, True
        behind: object = False
        for event in held:
            behind = self.emit(event) or behind
        return behind

    def _take_text(self, event: TextDelta) -> object:
        text = event.text if self._in_arguments else self._read_head(event.text)
        if self._complete or not text:
            return False
        start, self._escaped = int(self._escaped), False
        for match in _STRUCTURE.finditer(text, start):
            match match[0]:
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
                        text = text[: match.end()]
                        break
                case _:
                    pass
        return self.emit(ToolCallDelta(0, text))

    def finish(self, finished: Finished) -> Finished:
        """Return the end of the call for the end of the answer.

        Raises:
            GenerationError: there is no complete call.
        """
        if self._undecided is not None and not self._calls:
            self._release()
        if finished.reason == "length" or self._is_text:
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
        if not self._named and (match := _NAME.match(self._head)):
            self._named = True
            self._head = self._head[match.end() :]
            name = msgspec.json.decode(match[1], type=str)
            if name not in self._names:
                raise _no_call()
            self.emit(ToolCallStarted(0, f"call_{uuid4().hex[:24]}", name))
        if (
            self._named
            and (match := _PARAMETERS.match(self._head))
            and match.end() < len(self._head)
        ):
            self._in_arguments = True
            return self._head[match.end() :]
        if len(self._head) > _FALSE_START + max(map(len, self._names)):
            raise _no_call()
        return ""


def _no_call() -> GenerationError:
    return GenerationError("The model did not write the tool call that the request demands.")
