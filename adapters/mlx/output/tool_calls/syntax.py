"""Tool call syntaxes: the text around the name and arguments of a call.

Syntaxes are learned from chat templates (`written_calls.py`). The list here is for templates that
write no calls, for gpt-oss's channels, and for what only a parser of mlx-lm's can read.

Imports neither mlx nor transformers: the catalogue recognises templates with it.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from adapters.request import ToolCall

Body = Literal["object", "header", "harmony", "tagged", "parsed"]
NAME, ID, INDEX, KEY = "\ue000", "\ue001", "\ue002", "\ue003"
"""Places in a text: the name of the function, the id and the number of the call, a key."""


class Value(NamedTuple):
    """The texts around one argument: before its key, between key and value, after the value."""

    head: str
    middle: str
    tail: str


class Parameters(Struct, frozen=True, kw_only=True):
    """Arguments that are written one by one, each with its key, and not as a JSON object."""

    string: Value
    other: Value
    """Around a number or anything else that is not a string, which is written as JSON."""
    between: str = ""
    strings_are_json: bool = False
    """Strings are written as JSON, quotes included; otherwise as they are."""
    python_booleans: bool = False
    """True and False instead of true and false."""

    @property
    def has_ends(self) -> bool:
        """True if a text shows where the value of a string ends, whatever follows it."""
        return self.strings_are_json or bool(self.string.tail)

    def write(self, key: str, value: Any) -> str:
        """Write one argument."""
        is_text = isinstance(value, str)
        around = self.string if is_text else self.other
        text = value if is_text and not self.strings_are_json else _dump(value)
        if isinstance(value, bool) and self.python_booleans:
            text = str(value)
        return f"{around.head}{key}{around.middle}{text}{around.tail.replace(KEY, key)}"

    def write_all(self, arguments: dict[str, Any]) -> str:
        return self.between.join(self.write(key, value) for key, value in arguments.items())


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class ToolSyntax(Struct, frozen=True, kw_only=True):
    """One way to write calls. If `json` is true, an answer with two calls reads

        opening, before_name, NAME, before_arguments, ARGUMENTS, after_arguments,
        between_calls, before_name, NAME, …, closing

    or, if `between_calls` is None, has a span for each call, with `between_spans` in between.
    """

    name: str
    json: bool = True
    """The arguments are written as one JSON object."""
    body: Body = "object"
    """Form of a span: JSON objects with the name in them, a header before the arguments,
    gpt-oss's channels, `parameters`, or any text that mlx-lm's parser of that name reads at its
    end."""
    begin: str = ""
    """Opens a span of calls; without it, calls are recognised only where the answer begins."""
    end: str = ""
    """Closes the span; without it, the end of the answer does."""
    opening: str = ""
    """`begin` and the text that the template writes after it."""
    closing: str = ""
    """`end` and the text that the template writes before it."""
    before_name: str = '{"name": "'
    before_arguments: str = '", "arguments": '
    after_arguments: str = "}"
    between_calls: str | None = None
    between_spans: str = "\n"
    header: str = ""
    """For the body `header`: a regular expression for all text before the arguments."""
    marks: tuple[str, ...] = ()
    """Further texts that may be control tokens and that the parser needs to see."""
    parameters: Parameters | None = None
    """For the body `tagged`: the arguments, between `before_arguments` and `after_arguments`."""
    name_is_key: bool = False
    """For the body `object`: the name of the function is the key of the arguments."""
    also: tuple["ToolSyntax", ...] = ()
    """Other texts around name and arguments that a forced call may have."""
    parser: str = ""
    """mlx-lm's parser that reads a span, where the texts above do not suffice."""

    @property
    def keys(self) -> tuple[str, str]:
        """The keys of name and arguments, for the body `object`."""
        name = re.search(r'"(\w+)":\s*"$', self.before_name)
        arguments = re.search(r'"(\w+)":\s*$', self.before_arguments)
        return name[1] if name else "name", arguments[1] if arguments else "arguments"

    @property
    def allows_json(self) -> bool:
        """True if a span that begins with a bracket is read as JSON, whatever `body` is. In other
        syntaxes a bracket begins a list of calls that are not JSON."""
        return self.parser != "pythonic" and not self.opening.endswith("[")

    @property
    def is_bare(self) -> bool:
        """True if nothing announces a call: it is at the beginning of an answer, or nowhere."""
        return self.begin == "" or self.name == "llama"

    @property
    def is_written(self) -> bool:
        """True if calls can be written in it, by a grammar as by `write`."""
        return self.json or self.parameters is not None

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Write the calls of one turn as the model does."""
        written = [self._write(number, call) for number, call in enumerate(calls)]
        if self.between_calls is not None:
            return f"{self.opening}{self.between_calls.join(written)}{self.closing}"
        return self.between_spans.join(f"{self.opening}{call}{self.closing}" for call in written)

    def _write(self, number: int, call: ToolCall) -> str:
        before, arguments = f"{self.before_name}{call.name}{self.before_arguments}", call.arguments
        if self.parameters is None:
            arguments = arguments or "{}"
        else:
            arguments = self.parameters.write_all(_to_object(call.arguments))
        text = f"{before}{arguments}{self.after_arguments}"
        return text.replace(ID, call.id).replace(INDEX, str(number))


def _to_object(text: str) -> dict[str, Any]:
    """Parse arguments; a call of an earlier turn may have others than an object."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


PLAIN_JSON = ToolSyntax(
    name="plain_json", opening="[", closing="]", between_calls=", ", between_spans=""
)
"""For templates without tools: `{"name": …, "arguments": …}`, or an array of them."""

HERMES = ToolSyntax(
    name="json_tools",
    begin="<tool_call>",
    end="</tool_call>",
    opening="<tool_call>\n",
    closing="\n</tool_call>",
)
LLAMA = ToolSyntax(
    name="llama",
    begin="<|python_tag|>",
    before_arguments='", "parameters": ',
    between_calls="; ",
    marks=("<|python_tag|>",),
)
HARMONY = ToolSyntax(
    name="harmony",
    body="harmony",
    before_name="<|channel|>commentary to=functions.",
    before_arguments=" <|constrain|>json<|message|>",
    after_arguments="",
    between_spans="<|call|><|start|>assistant",
    marks=(
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|channel|>",
        "<|constrain|>",
        "<|return|>",
        "<|call|>",
    ),
)
_DEEPSEEK_MARKS = (
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
)
_DEEPSEEK_HEADER = (
    r"\s*<｜tool▁call▁begin｜>\s*(?:function\s*<｜tool▁sep｜>)?\s*(?P<name>[^\s<｜]+)\s*"
    r"(?:<｜tool▁sep｜>)?\s*(?:```json)?\s*"
)
DEEPSEEK_V3 = ToolSyntax(
    name="deepseek_v3",
    body="header",
    begin="<｜tool▁calls▁begin｜>",
    end="<｜tool▁calls▁end｜>",
    opening="<｜tool▁calls▁begin｜>",
    closing="<｜tool▁calls▁end｜>",
    before_name="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    before_arguments="\n```json\n",
    after_arguments="\n```<｜tool▁call▁end｜>",
    between_calls="\n",
    header=_DEEPSEEK_HEADER,
    marks=_DEEPSEEK_MARKS,
)
DEEPSEEK_V31 = ToolSyntax(
    name="deepseek_v31",
    body="header",
    begin="<｜tool▁calls▁begin｜>",
    end="<｜tool▁calls▁end｜>",
    opening="<｜tool▁calls▁begin｜>",
    closing="<｜tool▁calls▁end｜>",
    before_name="<｜tool▁call▁begin｜>",
    before_arguments="<｜tool▁sep｜>",
    after_arguments="<｜tool▁call▁end｜>",
    between_calls="",
    header=_DEEPSEEK_HEADER,
    marks=_DEEPSEEK_MARKS,
)
KIMI_K2 = ToolSyntax(
    name="kimi_k2",
    body="header",
    begin="<|tool_calls_section_begin|>",
    end="<|tool_calls_section_end|>",
    opening="<|tool_calls_section_begin|>",
    closing="<|tool_calls_section_end|>",
    before_name="<|tool_call_begin|>functions.",
    before_arguments=f":{INDEX}<|tool_call_argument_begin|>",
    after_arguments="<|tool_call_end|>",
    between_calls="",
    header=(
        r"\s*<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[^\s<]+?):\d+\s*"
        r"<\|tool_call_argument_begin\|>\s*"
    ),
    marks=("<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>"),
)
MISTRAL = ToolSyntax(
    name="mistral",
    body="header",
    begin="[TOOL_CALLS]",
    opening="[TOOL_CALLS]",
    before_name="",
    before_arguments="[ARGS]",
    after_arguments="",
    between_spans="",
    header=r"\s*(?:\[TOOL_CALLS\]\s*)?(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\]\s*",
    marks=("[ARGS]", "[CALL_ID]"),
)
MISTRAL_LIST = ToolSyntax(
    name="mistral_list",
    begin="[TOOL_CALLS]",
    opening="[TOOL_CALLS] [",
    closing="]",
    between_calls=", ",
)


def _json_list(name: str, begin: str, end: str) -> ToolSyntax:
    """A syntax of `begin`, a JSON array of calls, `end`."""
    return ToolSyntax(
        name=name, begin=begin, end=end, opening=begin + "[", closing="]" + end, between_calls=", "
    )


def _parsed(name: str, begin: str, end: str, *marks: str) -> ToolSyntax:
    """A syntax without JSON, parsed by mlx-lm's parser `name` at the end of the span."""
    return ToolSyntax(
        name=name, json=False, body="parsed", begin=begin, end=end, marks=marks, parser=name
    )


# Markers and order of mlx_lm.tokenizer_utils._infer_tool_parser (0.32.2).
# A template has this syntax if it contains all of these texts.
_BY_TEMPLATE: tuple[tuple[tuple[str, ...], ToolSyntax], ...] = (
    (("<|channel|>", "<|constrain|>"), HARMONY),
    (("<｜tool▁calls▁begin｜>", "```json"), DEEPSEEK_V3),
    (("<｜tool▁calls▁begin｜>",), DEEPSEEK_V31),
    (
        ("<minimax:tool_call>",),
        _parsed("minimax_m2", "<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    (
        ("<|tool_call>", "<tool_call|>"),
        _parsed("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    (
        ("<start_function_call>",),
        _parsed("function_gemma", "<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    (
        ("<longcat_tool_call>",),
        _parsed(
            "longcat",
            "<longcat_tool_call>",
            "</longcat_tool_call>",
            "<longcat_arg_key>",
            "</longcat_arg_key>",
            "<longcat_arg_value>",
            "</longcat_arg_value>",
        ),
    ),
    (
        ("<arg_key>",),
        _parsed(
            "glm47",
            "<tool_call>",
            "</tool_call>",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
        ),
    ),
    (("<|tool_list_start|>",), _parsed("pythonic", "<|tool_call_start|>", "<|tool_call_end|>")),
    (("<|tool_call_start|>",), _parsed("pythonic", "<|tool_call_start|>", "<|tool_call_end|>")),
    (("<tool_call>\\n<function=",), _parsed("qwen3_coder", "<tool_call>", "</tool_call>")),
    (("<tool_call>\n<function=",), _parsed("qwen3_coder", "<tool_call>", "</tool_call>")),
    (("<|tool_calls_section_begin|>",), KIMI_K2),
    (
        ('<function name="', '<param name="'),
        _parsed("minicpm5", "<function name=", "</function>"),
    ),
    (("[TOOL_CALLS]", "[ARGS]"), MISTRAL),
    (("[TOOL_CALLS]",), MISTRAL_LIST),
    (
        ("<atem:function_calls>",),
        _parsed("muse_spark", "<atem:function_calls>", "</atem:function_calls>"),
    ),
    (
        ("<|open|>", "<|close|>", "<|sep|>"),
        _parsed(
            "kimi_k3",
            "<|open|>tools<|sep|>",
            "<|close|>tools<|sep|>",
            "<|open|>",
            "<|close|>",
            "<|sep|>",
        ),
    ),
    # Not supported by mlx-lm.
    (("<TOOLCALL>",), _json_list("nemotron", "<TOOLCALL>", "</TOOLCALL>")),
    (("<|tool_call|>", "<|/tool_call|>"), _json_list("phi4", "<|tool_call|>", "<|/tool_call|>")),
    (("<tool_calls>", "</tool_calls>"), _json_list("jamba", "<tool_calls>", "</tool_calls>")),
    (("<|tool_call|>",), _json_list("granite", "<|tool_call|>", "")),
    (("<tool_call>",), HERMES),
    (("<|python_tag|>",), LLAMA),
    (("ipython", '"parameters"'), LLAMA),
)

_BY_NAME = {syntax.name: syntax for _, syntax in _BY_TEMPLATE} | {
    "laguna": _parsed(
        "laguna",
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    )
}


def syntax_of_template(template: str) -> ToolSyntax | None:
    """The syntax that a chat template uses; None if it does not support tools."""
    if "tools" not in template:
        return None
    return next(
        (syntax for texts, syntax in _BY_TEMPLATE if all(text in template for text in texts)), None
    )


def find_by_name(name: str) -> ToolSyntax | None:
    """The syntax of this name, mlx-lm's or Tandem's own."""
    return _BY_NAME.get(name)
