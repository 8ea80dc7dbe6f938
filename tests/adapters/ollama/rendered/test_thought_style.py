"""The words around thoughts and answers, read from recorded renderings of every class of models."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.recorded_ollama import DATA

from adapters.chat_template import Probe, Refusal, run
from adapters.ollama.rendered.renderer import to_probe_body
from adapters.ollama.rendered.thought_style import ThoughtStyle, find_style

_THINK = "\n</think>\n\n"
STYLES: dict[str, tuple[str, str | None, str | None]] = {
    "cogito": ("", "", _THINK),
    "cohere": ("<|START_TEXT|>", "", "<|END_THINKING|><|START_TEXT|>"),
    "deepseek3.1": ("", "", "</think>"),
    "functiongemma": ("", None, None),
    "gemma4": ("", "<|channel>thought\n", "\n<channel|>"),
    "glimmer": (
        " to=user<|message|>",
        " to=self<|message|>",
        "<|eom|><|start|>assistant to=user<|message|>",
    ),
    "glm-4.7": ("", "", "</think>"),
    "go": ("", None, None),
    "go-think": ("", "", "</think>"),
    "harmony": (
        "",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "jinja": ("", None, None),
    "jinja-think": ("", "", _THINK),
    "laguna": ("\n", "\n", "\n</think>\n"),
    "lfm2-thinking": ("", "<think>", "</think>"),
    "nemotron-3-nano": ("", "", "\n</think>\n"),
    "no-template": ("", None, None),
    "olmo3-think": (_THINK, "", _THINK),
    "qwen3-vl-thinking": ("", "", _THINK),
    "qwen3.5": ("", "", _THINK),
}
"""Class -> the text before an answer without a thought, and those around a thought."""


def exchanges(name: str) -> list[dict[str, Any]]:
    return json.loads((DATA / "classes" / f"{name}.json").read_text())


def probed(name: str) -> ThoughtStyle:
    """Probe the recorded renderings; a probe that was not recorded is an error."""
    shown, *others = exchanges(name)
    renderings = {
        _key(kept["request"]["body"]): json.loads("".join(kept["response"]["chunks"]))
        for kept in others
        if kept["about"] == "a probe"
    }

    def render(probe: Probe) -> str | Refusal:
        answer = renderings[_key(json.loads(msgspec.json.encode(to_probe_body("m", probe))))]
        if "error" in answer:
            return Refusal(answer["error"])
        return answer["_debug_info"]["rendered_template"]

    reported = json.loads("".join(shown["response"]["chunks"]))
    parser = re.search(r"^PARSER (\S+)$", reported["modelfile"], re.MULTILINE)
    template = reported["template"]
    probing = find_style(
        thinks="thinking" in reported["capabilities"],
        template=template if "{%" in template else "",
        parser=parser[1] if parser else "",
    )
    return run(probing, render)


def _key(body: dict[str, Any]) -> str:
    return json.dumps([body["messages"], body.get("tools"), body.get("think")])


@pytest.mark.parametrize("name", sorted(STYLES))
def test_words_around_a_thought_are_seen(name: str):
    style = probed(name)
    assert (style.lead, style.opening, style.close) == STYLES[name]


def test_every_recorded_class_that_thinks_is_known():
    names = [path.stem for path in Path(DATA / "classes").glob("*.json")]
    unknown = [name for name in names if "thinking" in exchanges(name)[0]["response"]["chunks"][0]]
    assert all(probed(name).has_thoughts for name in unknown if name in STYLES)
    assert len(names) >= 20


@pytest.mark.parametrize(
    ("close", "end"),
    [
        ("\n</think>\n\n", "</think>"),
        ("<|END_THINKING|><|START_TEXT|>", "<|END_THINKING|>"),
        ("[/THINK]", "[/THINK]"),
        ("\nAnswer:\n", "Answer:"),
        (None, ""),
    ],
)
def test_first_marker_ends_a_thought(close: str | None, end: str):
    assert ThoughtStyle(close=close).end == end


def test_markers_that_nobody_has_seen_are_read_from_the_renderings():
    """A template that thinks between `<mull>` and `<mulled>`, and shows no thought of earlier."""

    def render(probe: Probe) -> str:
        text = "".join(f"<{m.role}>{m.text}" for m in probe.messages) + "<assistant>"
        return text + ("<mull>\n" if probe.thinking else "<mull>\n\n<mulled>\n")

    style = run(find_style(thinks=True), render)
    assert style == ThoughtStyle(lead="", opening="", close="\n<mulled>\n")


@pytest.mark.parametrize("shows_thoughts", [True, False])
def test_words_in_the_question_and_white_space_after_it_are_no_markers(shows_thoughts: bool):
    """A template with the switch in the question as well, and a line break after the prompt."""

    def render(probe: Probe) -> str:
        word = " /think" if probe.thinking else " /no_think"
        text = ""
        for message in probe.messages:
            thought = f"[T]{message.reasoning}[/T]" if message.reasoning and shows_thoughts else ""
            switch = word if message.role == "user" else ""
            text += f"<{message.role}>\n{thought}{message.text}{switch}<end>\n"
        return text + "<assistant>\n" + ("\n" if probe.thinking else "[T][/T]\n")

    style = run(find_style(thinks=True), render)
    assert style.has_thoughts
    assert ((style.opening or "").strip(), style.end) == ("[T]", "[/T]")


def test_template_that_refuses_everything_has_no_style():
    assert run(find_style(thinks=True), lambda _: Refusal("no")) == ThoughtStyle()
