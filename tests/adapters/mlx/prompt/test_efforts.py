"""Levels of reasoning effort that a chat template takes."""

import pytest

from adapters.chat_template.template import JinjaTemplates
from adapters.mlx.prompt.learned import learn

TURNS = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
CHECK = (
    "{% if reasoning_effort is defined and reasoning_effort not in LEVELS %}"
    "{{ raise_exception('Unexpected reasoning effort.') }}{% endif %}"
)


@pytest.mark.parametrize(
    ("levels", "efforts"),
    [
        (("low", "medium", "high", "none"), {}),
        (("low", "medium", "xhigh"), {"high": "xhigh", "xhigh": "xhigh", "none": ""}),
        (
            ("medium",),
            dict.fromkeys(("minimal", "low", "high", "xhigh"), "medium") | {"none": ""},
        ),
        ((), dict.fromkeys(("none", "minimal", "low", "medium", "high", "xhigh"), "")),
    ],
)
def test_refused_effort_is_told_as_the_nearest_level(
    levels: tuple[str, ...], efforts: dict[str, str]
):
    text = CHECK.replace("LEVELS", str(list(levels))) + TURNS
    assert learn(JinjaTemplates({"default": text}, {}), text).efforts == efforts


def test_template_without_levels_is_told_every_effort():
    assert learn(JinjaTemplates({"default": TURNS}, {}), TURNS).efforts == {}
