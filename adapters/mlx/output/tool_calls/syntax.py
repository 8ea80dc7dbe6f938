"""Tool call syntaxes: the text around the name and arguments of a call, by model family.

Imports neither mlx nor transformers: the catalogue recognises templates with it.
"""

from typing import Any, Literal

from msgspec import Struct

Body = Literal["object", "header", "harmony", "parsed"]


class ToolSyntax(Struct, frozen=True, kw_only=True):
    """One way to write calls. If `json` is true, an answer with two calls reads

        opening, before_name, NAME, before_arguments, ARGUMENTS, after_arguments,
        between_calls, before_name, NAME, …, closing

    or, if `between_calls` is None, has a span for each call, with `between_spans` in between.
    `{index}` in `before_arguments` is the number of the call, from 0.
    """

    name: str
    json: bool = True
    """The arguments are written as one JSON object."""
    body: Body = "object"
    """Form of a span: JSON objects with the name in them, a header before the arguments,
    gpt-oss's channels, or any text that mlx-lm's parser of that name reads at its end."""
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
    before_arguments=":{index}<|tool_call_argument_begin|>",
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
    return ToolSyntax(name=name, json=False, body="parsed", begin=begin, end=end, marks=marks)


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


def find_syntax(tokenizer: Any) -> ToolSyntax | None:
    """The syntax of the model behind mlx-lm's `tokenizer`.

    A parser named by the converted model comes first, then its template. None if the template
    does not support tools: they are then described in plain text.
    """
    parser = str(tokenizer.init_kwargs.get("tool_parser_type"))
    by_template = syntax_of_template(template_text(tokenizer))
    if by_template is not None and by_template.name.startswith(parser):
        return by_template
    return find_by_name(parser) or by_template


def template_text(tokenizer: Any) -> str:
    """The chat template; several are joined by line breaks."""
    template: Any = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        return "\n".join(map(str, template.values()))  # pyright: ignore
    return template if isinstance(template, str) else ""
