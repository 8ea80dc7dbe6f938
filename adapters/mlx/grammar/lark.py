"""From a request to the grammar its answer must follow, in llguidance's Lark.

    start: [thinking] answer
    answer: a JSON value | one call or several | text that calls may stand in

Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark
from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import BackendError, InvalidRequestError, UnsupportedParameterError
from adapters.mlx.grammar.schema import any_object, bound
from adapters.mlx.output.reasoning import HARMONY_ANSWER, Reasoning, Thinking
from adapters.mlx.output.tool_calls import PLAIN_JSON, ToolSyntax
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Lark,
    NamedTool,
    Regex,
    ResponseFormat,
    Tool,
)

MAX_CALLS = 8
"""In one answer: a model that cannot stop calling is stopped."""
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""No white space but the one space that models were trained to write."""


class Style(Struct, frozen=True):
    """How one model writes what is no plain text."""

    syntax: ToolSyntax | None = None
    """Its calls; None where its template knows no tools."""
    reasoning: Reasoning | None = None
    thinking: Thinking = "none"
    control: Mapping[str, int] = {}
    """Names and ids of the tokens that no text contains."""


class Piece(Struct, frozen=True):
    """One schema of a grammar, and the parameter that it came with."""

    rule: str
    param: str
    schema: dict[str, Any]

    def alone(self) -> str:
        """The grammar of this schema and nothing else."""
        return _rule(replace(self, rule="start"))


class Grammar(Struct, frozen=True):
    text: str
    """As llguidance takes it."""
    param: str
    """What in the request is to blame where it does not compile."""
    pieces: tuple[Piece, ...] = ()
    """The schemas one by one, to find out which of them it is."""


class _Part(Struct, frozen=True):
    """Rules that define `answer`."""

    rules: str
    param: str
    pieces: tuple[Piece, ...] = ()
    own: str | None = None
    """A whole grammar that the request brought, known to `rules` as `@own`."""


def calls_syntax(request: GenerationRequest, syntax: ToolSyntax | None) -> ToolSyntax | None:
    """The syntax that calls of this answer are written in; None where it can have none.

    It is not the model's own where a grammar holds and that one is no JSON.
    """
    if not request.tools or request.tool_choice == "none":
        return None
    if syntax is None or (not syntax.json and is_constrained(request, syntax)):
        return PLAIN_JSON
    return syntax


def to_grammar(request: GenerationRequest, style: Style) -> Grammar | None:
    """The grammar of the whole answer, thinking included; `None` where everything is allowed.

    Raises:
        InvalidRequestError: a schema cannot be bounded; `param` says whose.
        UnsupportedParameterError: this model writes free calls in a way no schema can rule.
    """
    if not is_constrained(request, style.syntax):
        return None
    writer = _Writer(style)
    if calls_syntax(request, style.syntax) is None:
        assert request.response_format is not None  # noqa: S101  (for the type checker)
        return writer.whole(writer.only(_formatted(request.response_format)))
    calls = _Calls(request, writer)
    if request.tool_choice != "auto":
        return writer.whole(calls.forced())
    if request.response_format is not None:
        return writer.whole(calls.or_else(_formatted(request.response_format)))
    return writer.whole(calls.in_text())


def is_constrained(request: GenerationRequest, syntax: ToolSyntax | None) -> bool:
    """A free choice of loose tools is left to a model that knows how to call them."""
    if not request.tools or request.tool_choice == "none":
        return request.response_format is not None
    return (
        request.tool_choice != "auto"
        or syntax is None
        or request.response_format is not None
        or not request.parallel_tool_calls
        or any(tool.strict for tool in request.tools)
    )


def _formatted(wanted: ResponseFormat) -> _Part:
    """The rule `content`."""
    match wanted:
        case JSONObject():
            return _one_schema(any_object())
        case JSONSchema(schema):
            return _one_schema(_bounded(schema, "response_format"))
        case Regex(pattern):
            # As in Python's own `re` with ASCII: \\d is a digit from 0 to 9.
            return _Part(f"content: /{regex_to_lark(pattern, 'd')}/\n", "guided_regex")
        case Lark(grammar):
            return _Part("content: @own\n", "guided_grammar", own=grammar)


def _one_schema(schema: dict[str, Any]) -> _Part:
    piece = Piece("content", "response_format", schema)
    return _Part(_rule(piece), "response_format", (piece,))


def _bounded(schema: dict[str, Any], param: str) -> dict[str, Any]:
    try:
        return bound(schema)
    except BackendError as error:
        raise InvalidRequestError(error.message, param=param) from error


def _rule(piece: Piece) -> str:
    schema = {"x-guidance": _COMPACT, **piece.schema}
    return f"{piece.rule}: %json {json.dumps(schema, ensure_ascii=False)}\n"


class _Writer:
    """What is written around answers, by one model."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.harmony = style.reasoning is not None and style.reasoning.is_harmony
        self.final = self.literal(HARMONY_ANSWER) if self.harmony else ""
        """What a model of several channels writes before the text for the user."""

    def literal(self, text: str) -> str:
        """Text and control tokens in Lark; the latter by id, whatever their names look like."""
        control = self.style.control
        names = "|".join(map(re.escape, sorted(control, key=len, reverse=True)))
        parts = re.split(f"({names})", text) if names else [text]
        return " ".join(
            f"<[{control[part]}]>" if part in control else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )

    def only(self, content: _Part) -> _Part:
        return replace(content, rules=f"answer: {self.final} content\n{content.rules}")

    def whole(self, answer: _Part) -> Grammar:
        """With the thinking before it. The model cannot end inside of that."""
        text = f"start: {self._thinking()} answer\n{self._thought()}{answer.rules}"
        if answer.own is not None:
            grammars = [{"lark_grammar": text}, {"name": "own", "lark_grammar": answer.own}]
            text = json.dumps({"grammars": grammars})
        return Grammar(text, answer.param, answer.pieces)

    def _thinking(self) -> str:
        reasoning, thinking = self.style.reasoning, self.style.thinking
        if reasoning is None or thinking == "none":
            return ""
        return "thought" if thinking == "open" else f"({self.literal(reasoning.start)} thought)?"

    def _thought(self) -> str:
        reasoning = self.style.reasoning
        if not self._thinking() or reasoning is None:
            return ""
        end = self.literal(reasoning.end)
        after = self.literal("<|start|>assistant") if self.harmony else r"/\s{0,4}/"
        if reasoning.end in self.style.control:
            return f"thought: /(?s:.*)/ {end} {after}\n"
        # No token of its own: the first place where the text has it.
        return f"thought: unthought {after}\nunthought[lazy]: /(?s:.*)/ {end}\n"


class _Calls:
    """The calls of one request, and the answers they take part in."""

    def __init__(self, request: GenerationRequest, writer: _Writer) -> None:
        self._request = request
        self._writer = writer
        self._native = writer.style.syntax
        self._syntax = calls_syntax(request, self._native) or PLAIN_JSON
        self._pieces = tuple(_arguments(place, tool) for place, tool in _offered(request))
        self._tools = [tool for _, tool in _offered(request)]

    def forced(self) -> _Part:
        return self._part("answer: calls\n" + self._calls(), "tool_choice")

    def or_else(self, content: _Part) -> _Part:
        """A call, or what would be answered without tools."""
        rules = f"answer: calls | {self._writer.final} content\n{content.rules}{self._calls()}"
        part = self._part(rules, content.param)
        return replace(part, pieces=(*part.pieces, *content.pieces), own=content.own)

    def in_text(self) -> _Part:
        """Free text; wherever it begins a call, a right one."""
        self._require_json()
        begin = self._syntax.begin
        if begin and self._syntax.opening.startswith(begin):
            return self._part(self._triggered(begin), "tools")
        # What begins as calls do is a call: nothing else tells them apart.
        shut = "" if self._writer.harmony else r"[^\s{\[]"
        text = f"answer: {self._writer.final} TEXT | calls\nTEXT: /{shut}(?s:.*)/\n"
        return self._part(text + self._calls(), "tools")

    def _triggered(self, begin: str) -> str:
        rest = self._writer.literal(self._syntax.opening.removeprefix(begin))
        lazy = "" if begin in self._writer.style.control else "[lazy]"
        spans = 1 if self._one or self._syntax.between_calls is not None else MAX_CALLS
        return (
            f"answer: (head {rest} {self._span()}){{0,{spans}}} last\n"
            f"last: TEXT\nTEXT: /(?s:.*)/\nhead{lazy}: TEXT {self._writer.literal(begin)}\n"
        ) + self._call()

    def _require_json(self) -> None:
        """
        Raises:
            UnsupportedParameterError: the model writes calls in a language of its own, and is
                free not to write any: no schema rules what it then writes.
        """
        if self._native is None or self._native.json:
            return
        strict = next((n for n, tool in enumerate(self._request.tools) if tool.strict), None)
        param = "parallel_tool_calls" if strict is None else f"tools[{strict}].function.strict"
        raise UnsupportedParameterError(
            f"This model's calls cannot be held to '{param}' unless 'tool_choice' demands one.",
            param=param,
        )

    @property
    def _one(self) -> bool:
        return not self._request.parallel_tool_calls

    def _calls(self) -> str:
        """The rule `calls`: one at least."""
        opening = self._writer.literal(self._syntax.opening)
        if self._syntax is PLAIN_JSON:
            several = "" if self._one else f" | {opening} {self._span()}"
            return f"calls: call{several}\n" + self._call()
        more = ""
        if self._syntax.between_calls is None and not self._one and not self._writer.harmony:
            between = self._writer.literal(self._syntax.between_spans)
            more = f" ({between} span){{0,{MAX_CALLS - 1}}}"
        return f"calls: span{more}\nspan: {opening} {self._span()}\n" + self._call()

    def _span(self) -> str:
        """What follows the opening."""
        more = ""
        if self._syntax.between_calls is not None and not self._one:
            between = self._writer.literal(self._syntax.between_calls)
            more = f" ({between} call){{0,{MAX_CALLS - 1}}}"
        return f"call{more} {self._writer.literal(self._syntax.closing)}"

    def _call(self) -> str:
        """The rule `call`: one tool's name and arguments."""
        syntax, literal = self._syntax, self._writer.literal
        # A number that tells the calls apart, where the model writes one.
        before, *counted = syntax.before_arguments.split("{index}")
        index = f" /[0-9]/ {literal(counted[0])}" if counted else ""
        after = literal(syntax.after_arguments)
        calls = [
            f"{literal(syntax.before_name + _spelled(tool.name, syntax) + before)}{index} "
            f"{piece.rule} {after}"
            for tool, piece in zip(self._tools, self._pieces, strict=True)
        ]
        return "call: " + "\n    | ".join(calls) + "\n"

    def _part(self, rules: str, param: str) -> _Part:
        return _Part(rules + "".join(map(_rule, self._pieces)), param, self._pieces)


def _offered(request: GenerationRequest) -> list[tuple[int, Tool]]:
    """The tools that may be called, with their places in the request."""
    wanted = request.tool_choice
    return [
        (place, tool)
        for place, tool in enumerate(request.tools)
        if not isinstance(wanted, NamedTool) or wanted.name == tool.name
    ]


def _arguments(place: int, tool: Tool) -> Piece:
    param = f"tools[{place}].function.parameters"
    wanted = {"type": "object"} if tool.parameters is None else tool.parameters
    return Piece(f"arguments_{place}", param, _bounded(wanted, param))


def _spelled(name: str, syntax: ToolSyntax) -> str:
    return json.dumps(name, ensure_ascii=False)[1:-1] if syntax.body == "object" else name
