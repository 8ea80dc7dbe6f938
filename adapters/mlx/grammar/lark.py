"""Build the grammar of an answer, in llguidance's Lark.

    start: [thinking] answer
    answer: a JSON value | one or more calls | text that may contain calls

Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark
from msgspec import Struct
from msgspec.structs import replace

from adapters.chat_template.thought_markers import HARMONY_ANSWER
from adapters.errors import BackendError, InvalidRequestError, UnsupportedParameterError
from adapters.mlx.grammar.json_string import (
    NotInStringError,
    grammar_in_string,
    pattern_in_string,
)
from adapters.mlx.grammar.schema import any_object, bound
from adapters.mlx.grammar.tagged import can_be_tagged, to_rules
from adapters.mlx.output.reasoning import Reasoning, Thinking
from adapters.mlx.output.tool_calls import PLAIN_JSON, ToolSyntax
from adapters.mlx.output.tool_calls.syntax import ID, INDEX
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
from adapters.text_format import TextFormat

MAX_CALLS = 8
"""Limit for one answer that has to call: some models then do not stop calling."""
SCHEMA_PATH = "response_format.json_schema.schema"
"""The parameter with the schema of an answer."""
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""Schema of the arguments of a tool without `parameters`: `{}`.

Source: https://platform.openai.com/docs/api-reference/chat/create (tools, function, parameters)
"""
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""No white space but the single spaces that models were trained to write."""


class Style(Struct, frozen=True):
    """Format of calls, thinking and control tokens of one model."""

    syntax: ToolSyntax | None = None
    """Syntax of calls; None if the template does not support tools."""
    reasoning: Reasoning | None = None
    thinking: Thinking = "none"
    control: Mapping[str, int] = {}
    """Names and ids of the control tokens."""


class SchemaRule(Struct, frozen=True):
    """One schema of a grammar, and the parameter with it."""

    name: str
    param: str
    schema: dict[str, Any]

    @property
    def definition(self) -> str:
        schema = {"x-guidance": _COMPACT, **self.schema}
        return f"{self.name}: %json {json.dumps(schema, ensure_ascii=False)}\n"

    def as_grammar(self) -> str:
        """A grammar of this schema only."""
        return replace(self, name="start").definition


class InputRule(Struct, frozen=True):
    """The arguments of a tool of one string that has a format: a grammar inside a JSON string."""

    name: str
    param: str
    grammar: str
    """The grammar of the string as it stands in JSON."""

    @property
    def definition(self) -> str:
        return f'{self.name}: "{{\\"input\\":" " "? "\\"" @{self.name} "\\"}}"\n'

    def as_grammar(self) -> str:
        """A grammar of this format only."""
        return self.grammar


ArgumentsRule = SchemaRule | InputRule


class Grammar(Struct, frozen=True):
    text: str
    """Input of llguidance."""
    param: str
    """The parameter to name in an error if it does not compile."""
    schemas: tuple[ArgumentsRule, ...] = ()
    """All schemas in it, to find the one that does not compile."""


_HOLES = {ID: "/[a-zA-Z0-9]{9}/", INDEX: "/[0-9]/"}


class _Part(Struct, frozen=True):
    """Rules that define `answer`."""

    rules: str
    param: str
    schemas: tuple[ArgumentsRule, ...] = ()
    custom: str | None = None
    """A Lark grammar from the request, `@custom` in `rules`."""


def calls_syntax(request: GenerationRequest, syntax: ToolSyntax | None) -> ToolSyntax | None:
    """The syntax of calls in this answer; None if it cannot have any.

    Plain JSON replaces a syntax in which the schemas of a constrained answer cannot be enforced.
    """
    if not request.tools or request.tool_choice == "none":
        return None
    if syntax is None:
        return PLAIN_JSON
    if is_constrained(request, syntax) and not _is_enforced(request, syntax):
        return PLAIN_JSON
    return syntax


def _is_enforced(request: GenerationRequest, syntax: ToolSyntax) -> bool:
    """True if a grammar in this syntax can enforce the schemas of all tools."""
    if syntax.json:
        return True
    schemas = [tool.parameters or _NO_PARAMETERS for tool in request.tools]
    has_formats = any(tool.input_format for tool in request.tools)
    if syntax.parameters is None or has_formats or not syntax.parameters.has_ends:
        return False
    return all(map(can_be_tagged, schemas))


def to_grammar(request: GenerationRequest, style: Style) -> Grammar | None:
    """The grammar of an answer, thinking included; `None` if the answer is not constrained.

    Raises:
        InvalidRequestError: a schema cannot be bounded; `param` names it.
        UnsupportedParameterError: schemas cannot be enforced in the call syntax of this model.
    """
    if not is_constrained(request, style.syntax):
        return None
    writer = _Writer(style)
    if calls_syntax(request, style.syntax) is None:
        assert request.response_format is not None  # noqa: S101  (for the type checker)
        return writer.grammar(writer.content_only(_content(request.response_format)))
    calls = _Calls(request, writer)
    if request.tool_choice != "auto":
        return writer.grammar(calls.forced())
    if request.response_format is not None:
        return writer.grammar(calls.or_else(_content(request.response_format)))
    return writer.grammar(calls.in_text())


def is_constrained(request: GenerationRequest, syntax: ToolSyntax | None) -> bool:
    """False for optional calls of non-strict tools by a model with a syntax of its own.

    In a syntax without JSON, optional calls are constrained for strict tools only, and refused.
    """
    if not request.tools or request.tool_choice == "none":
        return request.response_format is not None
    return (
        request.tool_choice != "auto"
        or syntax is None
        or request.response_format is not None
        or not request.parallel_tool_calls
        or any(tool.strict for tool in request.tools)
        or (syntax.json and any(tool.prefers_strict or tool.input_format for tool in request.tools))
    )


def _content(response_format: ResponseFormat) -> _Part:
    """The rule `content`."""
    match response_format:
        case JSONObject():
            return _one_schema(any_object(), "response_format")
        case JSONSchema(schema):
            return _one_schema(_bounded(schema, SCHEMA_PATH), SCHEMA_PATH)
        case Regex(pattern):
            # Like Python's `re` with ASCII: \\d is a digit from 0 to 9.
            return _Part(f"content: /{regex_to_lark(pattern, 'd')}/\n", "guided_regex")
        case Lark(grammar):
            return _Part("content: @custom\n", "guided_grammar", custom=grammar)


def _one_schema(schema: dict[str, Any], param: str) -> _Part:
    rule = SchemaRule("content", param, schema)
    return _Part(rule.definition, rule.param, (rule,))


def _bounded(schema: dict[str, Any], param: str) -> dict[str, Any]:
    try:
        return bound(schema)
    except BackendError as error:
        raise InvalidRequestError(error.message, param=param) from error


class _Writer:
    """Writes literals, thinking and channels in the style of one model."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.harmony = style.reasoning is not None and style.reasoning.is_harmony
        self.final = self.literal(HARMONY_ANSWER) if self.harmony else ""
        """Header of the final message, for models with channels."""

    def literal(self, text: str) -> str:
        """Write text with control tokens in Lark; control tokens by their ids."""
        control = self.style.control
        names = "|".join(map(re.escape, sorted(control, key=len, reverse=True)))
        parts = re.split(f"({names})", text) if names else [text]
        return " ".join(
            f"<[{control[part]}]>" if part in control else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )

    def content_only(self, content: _Part) -> _Part:
        return replace(content, rules=f"answer: {self.final} content\n{content.rules}")

    def grammar(self, answer: _Part) -> Grammar:
        """The complete grammar. An answer cannot end inside the thinking before it."""
        reasoning, thinking = self.style.reasoning, self.style.thinking
        text = f"start: answer\n{answer.rules}"
        if reasoning is not None and thinking != "none":
            start = self.literal(reasoning.start)
            thought = "thought" if thinking == "open" else f"({start} thought)?"
            text = f"start: {thought} answer\n{self._thought(reasoning)}{answer.rules}"
        inner = {} if answer.custom is None else {"custom": answer.custom}
        inner |= {each.name: each.grammar for each in answer.schemas if isinstance(each, InputRule)}
        if inner:
            named = [{"name": name, "lark_grammar": one} for name, one in inner.items()]
            text = json.dumps({"grammars": [{"lark_grammar": text}, *named]})
        return Grammar(text, answer.param, answer.schemas)

    def _thought(self, reasoning: Reasoning) -> str:
        """The rule `thought`: thinking after its opening marker."""
        end = self.literal(reasoning.end)
        after = self.literal("<|start|>assistant") if self.harmony else r"/\s{0,4}/"
        if reasoning.end in self.style.control:
            return f"thought: /(?s:.*)/ {end} {after}\n"
        # The end is not a control token: the first match in the text ends the thinking.
        return f"thought: unthought {after}\nunthought[lazy]: /(?s:.*)/ {end}\n"


class _Calls:
    """Rules for the calls of one request, and for answers with calls."""

    def __init__(self, request: GenerationRequest, writer: _Writer) -> None:
        self._request = request
        self._writer = writer
        self._native = writer.style.syntax
        self._syntax = calls_syntax(request, self._native) or PLAIN_JSON
        callable_tools = request.callable_tools()
        self._tools = [tool for _, tool in callable_tools]
        self._arguments = tuple(_arguments_rule(index, tool) for index, tool in callable_tools)

    def forced(self) -> _Part:
        return self._part("answer: calls\n" + self._calls(), "tool_choice")

    def or_else(self, content: _Part) -> _Part:
        """Calls, or the content of an answer without tools."""
        rules = f"answer: calls | {self._writer.final} content\n{content.rules}{self._calls()}"
        part = self._part(rules, content.param)
        return replace(part, schemas=(*part.schemas, *content.schemas), custom=content.custom)

    def in_text(self) -> _Part:
        """Free text in which every call that begins is valid."""
        self._require_json()
        begin = self._syntax.begin
        if begin and self._syntax.opening.startswith(begin):
            return self._part(self._calls_after_marker(begin), "tools")
        # Calls have no opening marker: text must not begin like one.
        first = "" if self._writer.harmony else r"[^\s{\[]"
        text = f"answer: {self._writer.final} TEXT | calls\nTEXT: /{first}(?s:.*)/\n"
        return self._part(text + self._calls(), "tools")

    def _calls_after_marker(self, begin: str) -> str:
        rest = self._writer.literal(self._syntax.opening.removeprefix(begin))
        lazy = "" if begin in self._writer.style.control else "[lazy]"
        is_last = self._is_single or self._syntax.between_calls is not None
        return (
            f"answer: (head {rest} {self._span()}){'?' if is_last else '*'} last\n"
            f"last: TEXT\nTEXT: /(?s:.*)/\nhead{lazy}: TEXT {self._writer.literal(begin)}\n"
        ) + self._call()

    def _require_json(self) -> None:
        """Reject optional calls in a syntax without JSON: no schema can be enforced in it.

        Raises:
            UnsupportedParameterError: `param` is the reason why calls have to be constrained.
        """
        if self._native is None or _is_enforced(self._request, self._native):
            return
        strict = next((n for n, tool in enumerate(self._request.tools) if tool.strict), None)
        param = "parallel_tool_calls" if strict is None else f"tools[{strict}].function.strict"
        raise UnsupportedParameterError(
            f"'{param}' cannot be enforced for this model unless 'tool_choice' requires a call.",
            param=param,
        )

    @property
    def _is_single(self) -> bool:
        """True also where a tool is named: OpenAI answers with one call of it."""
        named = isinstance(self._request.tool_choice, NamedTool)
        return named or not self._request.parallel_tool_calls

    def _calls(self) -> str:
        """The rule `calls`: one or more."""
        opening = self._writer.literal(self._syntax.opening)
        if self._syntax is PLAIN_JSON:
            array = "" if self._is_single else f" | {opening} {self._span()}"
            return f"calls: call{array}\n" + self._call()
        more = ""
        if self._syntax.between_calls is None and not self._is_single and not self._writer.harmony:
            between = self._writer.literal(self._syntax.between_spans)
            more = self._further(f"{between} span")
        return f"calls: span{more}\nspan: {opening} {self._span()}\n" + self._call()

    def _span(self) -> str:
        """The calls of a span and its end, after the opening."""
        more = ""
        if self._syntax.between_calls is not None and not self._is_single:
            between = self._writer.literal(self._syntax.between_calls)
            more = self._further(f"{between} call")
        return f"call{more} {self._writer.literal(self._syntax.closing)}"

    def _further(self, part: str) -> str:
        if self._request.tool_choice == "auto":
            return f" ({part})*"
        return f" ({part}){{0,{MAX_CALLS - 1}}}"

    def _call(self) -> str:
        """The rule `call`: one tool's name and arguments."""
        syntax = self._syntax
        names = [tool.name for tool in self._tools]
        if syntax.body == "object":
            names = [self._in_json(name) for name in names]
        calls = [
            f"{self._text(way.before_name + name + way.before_arguments)}"
            f" {arguments.name} {self._text(way.after_arguments)}"
            for way in (syntax, *syntax.also)
            for name, arguments in zip(names, self._arguments, strict=True)
        ]
        return "call: " + "\n    | ".join(calls) + "\n"

    def _in_json(self, name: str) -> str:
        """Write a name in a string of JSON; control tokens in it begin with an escape.

        As they are, they would be control tokens of the answer, and could end it.
        """
        text = json.dumps(name, ensure_ascii=False)[1:-1]
        for token in self._writer.style.control:
            text = text.replace(token, f"\\u{ord(token[0]):04x}{token[1:]}")
        return text

    def _text(self, text: str) -> str:
        """Write a text of the syntax: calls may be numbered, or have ids."""
        parts = re.split(f"([{ID}{INDEX}])", text)
        return " ".join(_HOLES.get(part) or self._writer.literal(part) for part in parts if part)

    def _part(self, rules: str, param: str) -> _Part:
        """Complete `rules`, which refer to the arguments of the tools, with the rules of these."""
        if self._syntax.parameters is None:
            definitions = "".join(rule.definition for rule in self._arguments)
            return _Part(rules + definitions, param, self._arguments)
        tagged = [
            to_rules(rule.name, rule.schema, self._syntax.parameters, self._writer.literal)
            for rule in self._arguments
            if isinstance(rule, SchemaRule)  # A format is written in JSON: see `_is_enforced`.
        ]
        return _Part(rules + "".join(tagged), param)


def parameters_path(index: int) -> str:
    """The parameter with the schema of a tool's arguments."""
    return f"tools[{index}].function.parameters"


def input_path(index: int) -> str:
    """The parameter with the format of the text that a tool is called with."""
    return f"tools[{index}].input_format"


def _arguments_rule(index: int, tool: Tool) -> ArgumentsRule:
    """
    Raises:
        InvalidRequestError: the schema or the format of a tool cannot be enforced.
    """
    if tool.input_format is not None:
        return _input_rule(index, tool.input_format)
    param = parameters_path(index)
    schema = tool.parameters or _NO_PARAMETERS
    return SchemaRule(f"arguments_{index}", param, _bounded(schema, param))


def _input_rule(index: int, form: Regex | Lark) -> InputRule:
    param = input_path(index)
    TextFormat(form, param)  # Refuses what is no format, in the words of every engine.
    try:
        is_regex = isinstance(form, Regex)
        grammar = pattern_in_string(form.pattern) if is_regex else grammar_in_string(form.grammar)
    except NotInStringError as error:
        raise InvalidRequestError(
            f"{error} cannot be enforced in the input of a tool.", param=param
        ) from None
    return InputRule(f"input_{index}", param, grammar)
