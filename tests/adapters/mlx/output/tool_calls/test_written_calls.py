"""Calls as real chat templates write them: read back as the same calls, and allowed when forced."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fakes.even_sampler import fits

from adapters.chat_template.template import JinjaTemplates
from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.grammar.lark import Style, calls_syntax
from adapters.mlx.output.parse import create_reader
from adapters.mlx.output.tool_calls import PLAIN_JSON
from adapters.mlx.output.tool_calls.proof import ID_OF_CALL, VALUES, written
from adapters.mlx.output.tool_calls.written_calls import TOOLS
from adapters.mlx.prompt.learned import Learned, learn
from adapters.request import GenerationRequest, ToolCall

TEMPLATES = Path(__file__).parents[4] / "data" / "chat-templates"
NAMES = sorted(file.stem for file in TEMPLATES.glob("*.jinja"))
WITHOUT_CALLS = {
    # Templates that write no calls, so that there is nothing to read.
    "HuggingFaceTB-SmolLM3-3B",
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}
CHANGED = {
    "MiniMax-M3": {4},
    # The template or mlx-lm's parser changes a value (null, a last line break): its number in
    # `VALUES`.
    "google-gemma-4-31B-it": {4},
    "google-gemma-4-31B-it-interleaved": {4},
    "muse-glimmer": {3},
}
FORCED = {
    # The template puts an empty line where there are no arguments; the grammar does not.
    "deepseek-ai-DeepSeek-V4": 1,
    "deepseek-ai-DeepSeek-V4-Flash-0731": 1,
}
"""Number of the first two calls that a grammar allows to be written as the template does."""
UNFORCED = WITHOUT_CALLS | {
    # Its calls have the name twice, in a header that only mlx-lm's parser reads.
    "muse-glimmer",
    # Its JSON has line breaks and indentation; a forced call's has none.
    "CohereForAI-c4ai-command-r-plus-tool_use",
}
FEW = ("Apertus-8B-Instruct", "Qwen3-Coder", "meta-llama-Llama-3.2-3B-Instruct", "tencent-Hy3")
"""One of each kind of notation: the key is the name, tags, bare JSON, tags in a section."""


@cache
def template(name: str) -> tuple[JinjaTemplates, str]:
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return JinjaTemplates({"default": text}, {}), text


def learned(name: str) -> Learned:
    return learn(*template(name))


def read(shown: Learned, text: str, size: int) -> list[ToolCall]:
    """Read an answer that arrives in pieces of `size` characters."""
    reader = create_reader(None, is_open=False, syntax=shown.syntax, tools=TOOLS)
    assert reader is not None
    pieces = [p for at in range(0, len(text), size) for p in reader.feed(text[at : at + size])]
    pieces += reader.finish()
    calls: list[list[str]] = []
    for piece in pieces:
        if piece.kind == "call":
            calls.append([piece.text, ""])
        elif piece.kind == "arguments":
            calls[-1][1] += piece.text
    return [
        ToolCall(ID_OF_CALL, call, json.dumps(json.loads(arguments), ensure_ascii=False))
        for call, arguments in calls
    ]


def check_reading(name: str, sizes: tuple[int, ...]) -> None:
    shown = learned(name)
    found = list(written(shown.plan, template(name)[0]))
    assert len(found) == len(VALUES)
    for number, (call, text) in enumerate(found):
        for size in (len(text), *sizes):
            if number not in CHANGED.get(name, ()):
                assert read(shown, text, size) == [call], text


async def check_forcing(name: str, tokenizer: Any, compiler: GrammarCompiler) -> None:
    shown = learned(name)
    request = GenerationRequest(model="m", prompt=(), tools=TOOLS, tool_choice="required")
    assert calls_syntax(request, shown.syntax) is not PLAIN_JSON
    matcher, _ = await compiler.compile(request, Style(shown.syntax))
    assert matcher is not None
    # The first two have no values of a form that the grammar would have written differently.
    for _, text in list(written(shown.plan, template(name)[0]))[: FORCED.get(name, 2)]:
        assert fits(tokenizer, matcher, without_end(shown, text)), text


def without_end(shown: Learned, text: str) -> str:
    """The text of a call without white space before it, and without the end of the turn."""
    assert shown.syntax is not None
    text = text.lstrip("\n").removesuffix("<|call|>")
    if text.startswith(" functools"):
        text = text.strip()
    return text[: text.rindex(shown.syntax.end)] + shown.syntax.end if shown.syntax.end else text


@pytest.mark.parametrize("name", FEW)
def test_a_call_of_the_template_is_read_in_pieces_of_any_size(name: str):
    check_reading(name, (1, 7))


@pytest.mark.parametrize("name", FEW)
async def test_a_forced_call_may_be_written_as_the_template_does(
    name: str, tokenizer: Any, compiler: GrammarCompiler
):
    await check_forcing(name, tokenizer, compiler)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_CALLS])
def test_calls_of_every_template_are_read_in_pieces_of_any_size(name: str):
    check_reading(name, (1, 2, 3, 5, 11, 40))


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNFORCED])
async def test_forced_calls_may_be_written_as_every_template_does(
    name: str, tokenizer: Any, compiler: GrammarCompiler
):
    await check_forcing(name, tokenizer, compiler)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(WITHOUT_CALLS))
def test_templates_without_calls_write_none(name: str):
    assert "calls-as-text" in learned(name).plan.rewrites


CALL = '{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}'
PAGE = (
    "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
    "{% for message in messages %}<{{ message.role }}>"
    "{% if message.tool_calls %}BEFORE{% for call in message.tool_calls %}CALL{% endfor %}AFTER"
    "{% else %}{{ message.content }}{% endif %}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
).replace("CALL", CALL)


@pytest.mark.parametrize(
    ("before", "after", "begin"),
    [
        ("<|py_start|><|py_end|>", "", "<|py_start|>"),
        ("<think>\n</think><calls>", "</calls>", "<calls>"),
    ],
    ids=["two markers before a call", "an empty thought before a call"],
)
def test_call_after_markers_without_content_is_read(before: str, after: str, begin: str):
    text = PAGE.replace("BEFORE", before).replace("AFTER", after)
    own = JinjaTemplates({"default": text}, {})
    shown = learn(own, text)
    assert shown.syntax is not None
    assert shown.syntax.begin == begin
    for call, answer in written(shown.plan, own):
        for size in (1, len(answer)):
            assert read(shown, answer, size) == [call]


PYTHON = (
    "```python{% for call in message.tool_calls %}\n#{{ call.id }}\n{{ call.function.name }}("
    "{% for key, value in call.function.arguments.items() %}{{ key }}={{ value | tojson }}"
    "{% if not loop.last %}, {% endif %}{% endfor %}){% endfor %}\n```"
)
YAML = (
    "{% for call in message.tool_calls %}\n---\ntool: {{ call.function.name }}\nargs:"
    "{% for key, value in call.function.arguments.items() %}\n  {{ key }}: {{ value | tojson }}"
    "{% endfor %}\n...\n{% endfor %}"
)


@pytest.mark.parametrize("notation", [PYTHON, YAML], ids=["ids before names", "lines of YAML"])
def test_call_in_an_unknown_notation_is_read_whatever_its_strings_are(notation: str):
    text = PAGE.replace(f"BEFORE{{% for call in message.tool_calls %}}{CALL}{{% endfor %}}", "")
    text = text.replace("AFTER", notation)
    own = JinjaTemplates({"default": text}, {})
    shown = learn(own, text)
    assert shown.syntax is not None
    strange = {"place": 'a: "b", sort=1, ...\n```', "sort": "``` ... place: 2)"}
    calls = [ToolCall(ID_OF_CALL, TOOLS[0].name, json.dumps(strange))]
    calls += [call for call, _ in written(shown.plan, own)]
    for call in calls:
        answer = shown.syntax.write([call])
        for size in (1, 7, len(answer)):
            assert read(shown, answer, size) == [call]
