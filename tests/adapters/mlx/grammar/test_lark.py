"""Answers that a request allows: calls, formats, free text, thinking before them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.even_sampler import draw, fits
from llguidance import LLMatcher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from adapters.chat_template.thought_markers import HARMONY_START
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.grammar.lark import Style, calls_syntax
from adapters.mlx.output.reasoning import Reasoning
from adapters.mlx.output.tool_calls import PLAIN_JSON
from adapters.mlx.output.tool_calls.syntax import (
    DEEPSEEK_V31,
    HARMONY,
    HERMES,
    KIMI_K2,
    LLAMA,
    MISTRAL,
    MISTRAL_LIST,
    Parameters,
    ToolSyntax,
    Value,
)
from adapters.request import (
    GenerationRequest,
    JSONSchema,
    Lark,
    NamedTool,
    Regex,
    Tool,
)

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}


def tool(name: str, key: str, *, strict: bool = False) -> Tool:
    schema = {"type": "object", "properties": {key: DIGIT}, "required": [key]}
    return Tool(name, None, schema, strict)


ADD, SUB = tool("add", "x"), tool("sub", "y")
FORM = JSONSchema({"type": "object", "properties": {"a": DIGIT}, "required": ["a"]})
XML = ToolSyntax(name="xml", json=False, body="parsed", begin="<call>", end="</call>")


def request(*tools: Tool, **fields: Any) -> GenerationRequest:
    return GenerationRequest(model="m", prompt="p", tools=tools, **fields)


async def compiled(
    compiler: GrammarCompiler, generation_request: GenerationRequest, style: Style | None = None
) -> LLMatcher:
    matcher, _ = await compiler.compile(generation_request, style or Style())
    assert matcher is not None
    return matcher


CALL = '{"name": "add", "arguments": {"x": 1}}'
OTHER = '{"name": "sub", "arguments": {"y": 2}}'


@pytest.mark.parametrize(
    ("syntax", "one", "two"),
    [
        (None, CALL, f"[{CALL}, {OTHER}]"),
        (XML, CALL, f"[{CALL}, {OTHER}]"),
        (
            HERMES,
            f"<tool_call>\n{CALL}\n</tool_call>",
            f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{OTHER}\n</tool_call>",
        ),
        (
            LLAMA,
            '{"name": "add", "parameters": {"x": 1}}',
            '{"name": "add", "parameters": {"x": 1}}; {"name": "sub", "parameters": {"y": 2}}',
        ),
        (
            MISTRAL,
            '[TOOL_CALLS]add[ARGS]{"x": 1}',
            '[TOOL_CALLS]add[ARGS]{"x": 1}[TOOL_CALLS]sub[ARGS]{"y": 2}',
        ),
        (MISTRAL_LIST, f"[TOOL_CALLS] [{CALL}]", f"[TOOL_CALLS] [{CALL}, {OTHER}]"),
        (
            KIMI_K2,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0"
            '<|tool_call_argument_begin|>{"x": 1}<|tool_call_end|><|tool_calls_section_end|>',
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0"
            '<|tool_call_argument_begin|>{"x": 1}<|tool_call_end|>'
            "<|tool_call_begin|>functions.sub:1"
            '<|tool_call_argument_begin|>{"y": 2}<|tool_call_end|><|tool_calls_section_end|>',
        ),
        (
            DEEPSEEK_V31,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>"
            '{"x": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>"
            '{"x": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>sub<｜tool▁sep｜>'
            '{"y": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        ),
    ],
    ids=lambda value: value.name if isinstance(value, ToolSyntax) else "",
)
async def test_required_call_has_the_syntax_of_the_model(
    compiler: GrammarCompiler, tokenizer: Any, syntax: ToolSyntax | None, one: str, two: str
) -> None:
    generation_request = request(ADD, SUB, tool_choice="required")
    several = await compiled(compiler, generation_request, Style(syntax))
    assert fits(tokenizer, several, one)
    assert fits(tokenizer, several, two)
    assert not fits(tokenizer, several, "hello")
    assert not fits(tokenizer, several, one.replace("add", "sub"))
    generation_request = request(ADD, SUB, tool_choice="required", parallel_tool_calls=False)
    single = await compiled(compiler, generation_request, Style(syntax))
    assert fits(tokenizer, single, one)
    assert not fits(tokenizer, single, two)


async def test_only_the_named_tool_is_allowed(compiler: GrammarCompiler, tokenizer: Any) -> None:
    matcher = await compiled(compiler, request(ADD, SUB, tool_choice=NamedTool("sub")))
    assert fits(tokenizer, matcher, OTHER)
    assert not fits(tokenizer, matcher, CALL)


async def test_named_tool_is_called_once(compiler: GrammarCompiler, tokenizer: Any) -> None:
    matcher = await compiled(
        compiler, request(ADD, SUB, tool_choice=NamedTool("sub")), Style(HERMES)
    )
    span = f"<tool_call>\n{OTHER}\n</tool_call>"
    assert fits(tokenizer, matcher, span)
    assert not fits(tokenizer, matcher, f"{span}\n{span}")


async def test_required_calls_end_when_all_bytes_are_equally_likely(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    loose = Tool("loose"), Tool("looser", None, {"type": "object"})
    matcher = await compiled(compiler, request(*loose, tool_choice="required"), Style(HERMES))
    for seed in range(20):
        text = draw(tokenizer, matcher.deep_copy(), seed)
        spans = text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
        calls = [json.loads(span) for span in spans.split("\n</tool_call>\n<tool_call>\n")]
        assert 1 <= len(calls) <= 8
        assert {call["name"] for call in calls} <= {"loose", "looser"}
        assert all(isinstance(call["arguments"], dict) for call in calls)


async def test_strict_calls_are_enforced_in_free_text(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    generation_request = request(tool("add", "x", strict=True), SUB)
    matcher = await compiled(compiler, generation_request, Style(HERMES))
    assert fits(tokenizer, matcher, "Hello {there}, <b>you</b>.")
    assert fits(tokenizer, matcher, f"So: <tool_call>\n{CALL}\n</tool_call>")
    assert fits(
        tokenizer, matcher, f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{OTHER}\n</tool_call>"
    )
    assert not fits(tokenizer, matcher, '<tool_call>\n{"name": "add", "arguments": {"x": "1"}}')


@pytest.mark.parametrize(
    ("syntax", "opening", "between", "closing"),
    [
        (HERMES, "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
        (MISTRAL_LIST, "[TOOL_CALLS] [", ", ", "]"),
    ],
    ids=["spans", "list"],
)
async def test_optional_calls_are_as_many_as_the_model_makes(
    compiler: GrammarCompiler,
    tokenizer: Any,
    syntax: ToolSyntax,
    opening: str,
    between: str,
    closing: str,
) -> None:
    matcher = await compiled(compiler, request(tool("add", "x", strict=True)), Style(syntax))
    assert fits(tokenizer, matcher, opening + between.join([CALL] * 20) + closing)
    wrong = [CALL] * 20 + ['{"name": "add", "arguments": {"x": "1"}}']
    assert not fits(tokenizer, matcher, opening + between.join(wrong) + closing)


TAGGED = ToolSyntax(
    name="tagged",
    json=False,
    opening="<call>",
    before_name="<f=",
    before_arguments=">",
    after_arguments="</f>",
    closing="</call>",
    parameters=Parameters(
        string=Value("<p=", ">", "</p>"),
        other=Value("<p=", ">", "</p>"),
    ),
)


async def test_text_between_tags_is_as_long_as_the_model_makes_it(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    properties: dict[str, Any] = {"content": {"type": "string"}, "name": {"maxLength": 3}}
    properties["name"]["type"] = "string"
    parameters = {"type": "object", "properties": properties, "required": [*properties]}
    write = Tool("write", None, parameters, strict=True)
    matcher = await compiled(compiler, request(write, tool_choice="required"), Style(TAGGED))

    def call(name: str) -> str:
        content = "<p>line</p \n" * 1000
        return f"<call><f=write><p=content>{content}</p><p=name>{name}</p></f></call>"

    assert fits(tokenizer, matcher, call("abc"))
    assert not fits(tokenizer, matcher, call("abcd"))


async def test_call_is_enforced_after_its_control_token(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    syntax = ToolSyntax(name="c", begin="<|im_start|>", opening="<|im_start|>", closing="!")
    generation_request = request(tool("add", "x", strict=True))
    matcher = await compiled(compiler, generation_request, Style(syntax))
    assert fits(tokenizer, matcher, f"So: <|im_start|>{CALL}!")
    assert not fits(tokenizer, matcher, "So: <|im_start|>hm")


async def test_name_with_a_control_token_is_text(compiler: GrammarCompiler, tokenizer: Any) -> None:
    generation_request = request(Tool("a<|im_end|>"), tool_choice="required")
    matcher = await compiled(compiler, generation_request, Style(HERMES))
    text = draw(tokenizer, matcher, 0).removeprefix("<tool_call>\n")
    assert json.loads(text.partition(",")[0] + "}") == {"name": "a<|im_end|>"}


async def test_control_token_in_a_schema_is_text(compiler: GrammarCompiler, tokenizer: Any) -> None:
    schema = {"type": "object", "properties": {"<|im_end|>": {"enum": ["a<|im_start|>"]}}}
    form = JSONSchema({**schema, "required": ["<|im_end|>"], "additionalProperties": False})
    matcher = await compiled(compiler, request(response_format=form))
    assert json.loads(draw(tokenizer, matcher, 0)) == {"<|im_end|>": "a<|im_start|>"}


async def test_control_token_is_text_in_a_vocabulary_with_scores() -> None:
    pieces = ["<unk>", "</s>", *'a</s>"', *(f"<0x{byte:02X}>" for byte in range(256))]
    unigram = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0, True))
    unigram.decoder = decoders.ByteFallback()
    unigram.add_special_tokens(["<unk>", "</s>"])
    assert 1 not in await forced(unigram, "a</s>")


async def test_an_added_token_in_angle_brackets_is_text() -> None:
    tokenizer = with_letters()
    tokenizer.add_tokens(["<think>"])  # No control token, as Qwen3 has it.
    assert tokenizer.token_to_id("<think>") not in await forced(tokenizer, "a<think>b")


async def test_merges_of_a_control_token_are_left_out() -> None:
    tokenizer = with_letters("s>", "<s>", merges=[("s", ">"), ("<", "s>")])
    tokenizer.add_special_tokens(["<s>"])  # As InternLM2 has them.
    assert tokenizer.token_to_id("<s>") not in await forced(tokenizer, "a<s>b")


@pytest.mark.parametrize(
    "decoder",
    [decoders.Metaspace(), decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])],
    ids=["T5", "ChatGLM"],
)
async def test_spaces_of_a_decoder_are_read(decoder: Any) -> None:
    pieces = ["<unk>", "</s>", "\u2581", *'ab"']
    unigram: Any = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    unigram.decoder = decoder
    assert unigram.token_to_id("\u2581") in await forced(unigram, "a b")


async def test_a_vocabulary_that_cannot_be_read_is_refused_by_name() -> None:
    tokenizer = with_letters()
    tokenizer.decoder = decoders.CTC()
    with pytest.raises(UnsupportedParameterError, match=r"cannot be constrained: .*CTC") as caught:
        await forced(tokenizer, "a")
    assert caught.value.param == "response_format"


async def test_a_vocabulary_without_an_end_is_refused_where_an_answer_is_constrained() -> None:
    wrapper = SimpleNamespace(backend_tokenizer=with_letters(), get_added_vocab=dict[str, int])
    compiler = GrammarCompiler(wrapper, frozenset())
    with pytest.raises(UnsupportedParameterError, match="no token that ends") as caught:
        await compiled(compiler, request(response_format=JSONSchema({"enum": ["a"]})))
    assert caught.value.param == "response_format"
    free = request(ADD, tool_choice="none")
    assert (await compiler.compile(free, Style(HERMES))).matcher is None


def with_letters(*words: str, merges: list[tuple[str, str]] | None = None) -> Any:
    """A vocabulary of `</s>`, the bytes and `words`."""
    tokens = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    tokenizer: Any = Tokenizer(
        models.BPE({text: at for at, text in enumerate(tokens)}, merges or [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


async def forced(tokenizer: Any, text: str) -> list[int]:
    """The tokens that a schema with `text` as its only value forces."""
    wrapper = SimpleNamespace(backend_tokenizer=tokenizer, get_added_vocab=dict[str, int])
    compiler = GrammarCompiler(wrapper, frozenset({tokenizer.token_to_id("</s>")}))
    matcher = await compiled(compiler, request(response_format=JSONSchema({"enum": [text]})))
    tokens: list[int] = []
    while found := matcher.compute_ff_tokens():
        assert matcher.consume_tokens(found)
        tokens += found
    return tokens


async def test_answer_is_text_or_calls_when_the_template_has_no_tools(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    matcher = await compiled(compiler, request(ADD, SUB))
    assert fits(tokenizer, matcher, "Hello {there}.")
    assert fits(tokenizer, matcher, f"[{CALL}, {OTHER}]")
    assert not fits(tokenizer, matcher, '{"name": "mul", "arguments": {}}')


async def test_answer_is_content_or_calls_with_a_format_and_tools(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    generation_request = request(ADD, response_format=FORM)
    matcher = await compiled(compiler, generation_request, Style(HERMES))
    assert fits(tokenizer, matcher, '{"a": 1}')
    assert fits(tokenizer, matcher, f"<tool_call>\n{CALL}\n</tool_call>")
    assert not fits(tokenizer, matcher, "Hello.")


async def test_only_the_format_applies_when_tool_choice_is_none(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    generation_request = request(ADD, response_format=FORM, tool_choice="none")
    matcher = await compiled(compiler, generation_request, Style(HERMES))
    assert fits(tokenizer, matcher, '{"a": 1}')
    assert not fits(tokenizer, matcher, f"<tool_call>\n{CALL}\n</tool_call>")


@pytest.mark.parametrize(
    "generation_request",
    [request(), request(ADD), request(ADD, tool_choice="none")],
    ids=["no tools", "loose tools", "withheld tools"],
)
async def test_answer_is_unconstrained_without_format_or_strict_tools(
    compiler: GrammarCompiler, generation_request: GenerationRequest
) -> None:
    assert (await compiler.compile(generation_request, Style(HERMES))).matcher is None


THINK = Reasoning("<think>", "</think>")
CONTROL = Reasoning("<think>", "<|im_start|>")


@pytest.mark.parametrize(
    ("style", "right", "wrong"),
    [
        (Style(reasoning=THINK, thinking="open"), 'So.\n</think>\n\n{"a": 1}', '{"a": 1}'),
        (Style(reasoning=THINK, thinking="may"), '<think>So.</think>{"a": 1}', "<think>So."),
        (Style(reasoning=THINK, thinking="may"), '{"a": 1}', "So."),
        (Style(reasoning=THINK, thinking="none"), '{"a": 1}', '<think></think>{"a": 1}'),
        (Style(reasoning=CONTROL, thinking="may"), '<think>So<|im_start|>{"a": 1}', "So"),
    ],
)
async def test_grammar_applies_after_the_thinking(
    compiler: GrammarCompiler, tokenizer: Any, style: Style, right: str, wrong: str
) -> None:
    matcher = await compiled(compiler, request(response_format=FORM), style)
    assert fits(tokenizer, matcher, right)
    assert not fits(tokenizer, matcher, wrong)


async def test_thinking_and_answer_have_separate_channels(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    harmony = Style(HARMONY, Reasoning(HARMONY_START, "<|end|>"), "may")
    answer = '<|channel|>final<|message|>{"a": 1}'
    matcher = await compiled(compiler, request(response_format=FORM), harmony)
    assert fits(tokenizer, matcher, answer)
    assert fits(tokenizer, matcher, f"{HARMONY_START}So.<|end|><|start|>assistant{answer}")
    assert not fits(tokenizer, matcher, '{"a": 1}')
    matcher = await compiled(compiler, request(ADD, tool_choice="required"), harmony)
    call = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"x": 1}'
    assert fits(tokenizer, matcher, call)


async def test_regex_and_lark_constrain_the_complete_answer(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    matcher = await compiled(compiler, request(response_format=Regex(r"a/\d{2}")))
    assert fits(tokenizer, matcher, "a/12")
    assert not fits(tokenizer, matcher, "a/1")
    thinking = Style(reasoning=THINK, thinking="open")
    lark = Lark('start: "yes" | no\nno: "no" "!"+')
    matcher = await compiled(compiler, request(response_format=lark), thinking)
    assert fits(tokenizer, matcher, "Hm.</think>no!!")
    assert not fits(tokenizer, matcher, "Hm.</think>maybe")


BAD = {"type": "object", "properties": {"a": {"not": {}}}}


@pytest.mark.parametrize(
    ("generation_request", "param", "words"),
    [
        (request(response_format=Regex("(")), "guided_regex", "unclosed group"),
        (request(response_format=Regex("a" * 70_000)), "guided_regex", "64 KB"),
        (request(response_format=Lark("start: what")), "guided_grammar", "what"),
        (request(response_format=Lark("start: start")), "guided_grammar", "enforced"),
        *(
            (request(Tool("f", input_format=form)), "tools[0].input_format", "not a valid grammar")
            for form in (Regex("("), Lark("what"), Lark("start: what"))
        ),
        (
            request(ADD, Tool("f", None, BAD, strict=True), tool_choice="required"),
            "tools[1].function.parameters.properties.a.not",
            "'not'",
        ),
        (
            request(Tool("f", None, BAD, strict=True)),
            "tools[0].function.parameters.properties.a.not",
            "'not'",
        ),
        (
            request(ADD, response_format=JSONSchema(BAD, strict=True)),
            "response_format.json_schema.schema.properties.a.not",
            "'not'",
        ),
    ],
)
async def test_grammar_that_does_not_compile_is_rejected_with_its_parameter(
    compiler: GrammarCompiler, generation_request: GenerationRequest, param: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await compiler.compile(generation_request, Style(HERMES))
    assert caught.value.param == param
    assert words in caught.value.message


async def test_optional_calls_without_json_cannot_be_strict(
    compiler: GrammarCompiler,
) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        await compiler.compile(request(tool("add", "x", strict=True)), Style(XML))
    assert caught.value.param == "tools[0].function.strict"


def test_calls_syntax_is_that_of_the_grammar() -> None:
    assert calls_syntax(request(ADD), HERMES) is HERMES
    assert calls_syntax(request(ADD), XML) is XML
    assert calls_syntax(request(ADD, tool_choice="required"), XML) is PLAIN_JSON
    assert calls_syntax(request(ADD), None) is PLAIN_JSON
    assert calls_syntax(request(), HERMES) is None
