"""The syntax of a chat template, recognised by texts of templates on the hub."""

import pytest

from adapters.chat_template.thought_markers import markers_of_template
from adapters.mlx.output.reasoning import Reasoning
from adapters.mlx.output.tool_calls import syntax_of_template

TEMPLATES = {
    "json_tools": "{% if tools %}<tool_call>{{ tool_call.name }}</tool_call>{% endif %}",
    "qwen3_coder": "{% if tools %}<tool_call>\n<function=f>{% endif %}",
    "glm47": "{% if tools %}<tool_call>f<arg_key>k</arg_key>{% endif %}",
    "minimax_m2": "{% if tools %}<minimax:tool_call>{% endif %}",
    "gemma4": "{% if tools %}<|tool_call>call:f{}<tool_call|>{% endif %}",
    "function_gemma": "{% if tools %}<start_function_call>{% endif %}",
    "longcat": "{% if tools %}<longcat_tool_call>{% endif %}",
    "pythonic": "{% if tools %}<|tool_list_start|>{% endif %}",
    "kimi_k2": "{% if tools %}<|tool_calls_section_begin|>{% endif %}",
    "minicpm5": '{% if tools %}<function name="f"><param name="p">{% endif %}',
    "mistral": "{% if tools %}[TOOL_CALLS]f[ARGS]{% endif %}",
    "mistral_list": "{% if tools %}[TOOL_CALLS] [{% endif %}",
    "muse_spark": "{% if tools %}<atem:function_calls>{% endif %}",
    "kimi_k3": "{% if tools %}<|open|>tools<|sep|><|close|>{% endif %}",
    "harmony": "{% if tools %}<|channel|>commentary <|constrain|>json{% endif %}",
    "deepseek_v3": "{% if tools %}<｜tool▁calls▁begin｜>```json{% endif %}",
    "deepseek_v31": "{% if tools %}<｜tool▁calls▁begin｜>{% endif %}",
    "llama": "{% if tools %}<|python_tag|>{% endif %}",
    "phi4": "{% if tools %}<|tool_call|><|/tool_call|>{% endif %}",
    "nemotron": "{% if tools %}<TOOLCALL>{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_syntax_is_recognised_by_the_text_of_the_template(name: str) -> None:
    syntax = syntax_of_template(TEMPLATES[name])
    assert syntax is not None
    assert syntax.name == name


@pytest.mark.parametrize("template", ["", "{{ messages }}", "<tool_call> without the word"])
def test_template_without_tools_has_no_syntax(template: str) -> None:
    assert syntax_of_template(template) is None


@pytest.mark.parametrize(
    ("template", "markers"),
    [
        ("{{ content.split('</think>') }}", ("<think>", "</think>")),
        ("<|channel|>analysis<|message|>", ("<|channel|>analysis<|message|>", "<|end|>")),
        ("[THINK]{{ x }}[/THINK]", ("[THINK]", "[/THINK]")),
        ("{{ messages }}", None),
    ],
)
def test_thinking_is_recognised_by_its_end_marker(
    template: str, markers: tuple[str, str] | None
) -> None:
    assert markers_of_template(template) == markers


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("what does <think> mean?<|im_end|>\n<|im_start|>assistant\n", False),
    ],
)
def test_thinking_is_open_when_the_prompt_ends_with_its_marker(prompt: str, opened: bool) -> None:
    assert Reasoning("<think>", "</think>").ends_open(prompt) is opened
