"""Rendering of Jinja chat templates: the same as transformers, and what it refuses besides."""

from pathlib import Path
from typing import Any

import pytest

from adapters.chat_template.jinja import TemplateRefusalError, mentions, render_template

TEMPLATES = Path(__file__).parents[2] / "data" / "chat-templates"
MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye <b>&</b>"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SAME = ("Qwen-Qwen3-0.6B", "meta-llama-Llama-3.2-3B-Instruct", "poolside-Laguna-S-2.1")


def by_transformers(text: str) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages: Any = MESSAGES
    texts, _ = render_jinja_template(
        [messages],
        chat_template=text,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    return str(texts[0])


def check_sameness(name: str) -> None:
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    try:
        expected = by_transformers(text)
    except Exception as error:
        pytest.skip(f"transformers cannot render it: {error}")
    arguments = {"add_generation_prompt": True, **TOKENS}
    assert render_template(text, MESSAGES, None, arguments) == expected


@pytest.mark.parametrize("name", SAME)
def test_prompt_is_that_of_transformers(name: str):
    check_sameness(name)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(file.stem for file in TEMPLATES.glob("*.jinja")))
def test_every_prompt_is_that_of_transformers(name: str):
    check_sameness(name)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% set a = [] %}{% set _ = a.append('x') %}{{ a[0] }}", "x"),
        ("{{ messages[0].no.such.thing }}.", "."),
        ("{{ 'a' + messages[0].missing }}", "a"),
        ("{{ messages | map(attribute='role') | tojson }}", '["user", "assistant", "user"]'),
        ("{{ functions }}", "[]"),
        ("{{ ().__class__.__bases__ }}", ""),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{{ {'a': '<'} | tojson }}", '{"a": "<"}'),
    ],
)
def test_template_of_another_tool_is_rendered(template: str, text: str):
    assert render_template(template, MESSAGES) == text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0].update({'role': 'system'}) }}", "unsafe"),
    ],
)
def test_refusal_has_the_reason_of_the_template(template: str, reason: str):
    with pytest.raises(TemplateRefusalError, match=reason):
        render_template(template, MESSAGES)


def test_variables_that_a_template_may_read_are_known():
    assert mentions("{% if thinking %}x{% endif %}", "thinking")
    assert not mentions("{% if enable_thinking %}x{% endif %}", "thinking")
