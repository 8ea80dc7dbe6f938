"""Chat prompts: tools, earlier calls and reasoning, thinking switched on and off."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_model import WEATHER, chat
from fakes.tiny_model import END, TOOL_TEMPLATE, write_tiny_model
from msgspec.structs import replace as replaced

from adapters.chat_template.template import JinjaTemplates
from adapters.chat_template.thought_markers import HARMONY_START
from adapters.errors import GenerationError, InvalidRequestError, UnsupportedParameterError
from adapters.mlx.jobs import finish
from adapters.mlx.models.load import LoadedModel, load_folder
from adapters.mlx.models.load_progress import Loading
from adapters.mlx.output.reasoning import Reasoning
from adapters.mlx.prompt.chat import Prompt, render
from adapters.request import GenerationRequest, JSONObject, Message, TextPart, ToolCall

OPEN = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}"
BROKEN = "{{ 1 // 0 }}"
STRICT = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('Too late.') }}{% endif %}"
    "{% if m.content == 'nonsense' %}{{ raise_exception('No nonsense.') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if tools %}<|tool_call_start|>{{ tools[0].function.name }}, {{ tools | tojson }}{% endif %}"
)
"""Takes a system message at the beginning only, and leaves calls out."""
SILENT = "{% for m in messages %}{{ m.content }}{% endfor %}|{# </think> #}"
HISTORY = (
    Message(role="user", content=(TextPart("Weather?"),)),
    Message(
        role="assistant",
        reasoning="Ask.",
        tool_calls=(ToolCall("call_1", "weather", '{"city": "Rome"}'),),
    ),
    Message(role="tool", content=(TextPart("sunny"),), tool_call_id="call_1"),
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    root = tmp_path_factory.mktemp("models")
    templates: dict[str, dict[str, Any]] = {
        "caller": {"template": TOOL_TEMPLATE},
        "plain": {},
        "open": {"template": OPEN},
        "silent": {"template": SILENT},
        "strict": {"template": STRICT},
        "broken": {"template": BROKEN},
    }
    folders: dict[str, Path] = {
        name: write_tiny_model(root / name, **how) for name, how in templates.items()
    }
    return {
        name: finish(load_folder(folder, "never", Loading(name)))
        for name, folder in folders.items()
    }


def text_of(model: LoadedModel, prompt: Prompt) -> str:
    return model.tokenizer.decode(prompt.ids)


def rendered(model: LoadedModel, **fields: Any) -> str:
    request = chat(model=model.name, **fields)
    return text_of(model, render(model, request))


def test_tools_are_rendered_by_the_template(loaded: dict[str, LoadedModel]) -> None:
    assert "weather\nAnswer with" in rendered(loaded["caller"], tools=(WEATHER,))


def test_tools_are_not_rendered_when_tool_choice_is_none(loaded: dict[str, LoadedModel]) -> None:
    for model in (loaded["caller"], loaded["plain"]):
        text = rendered(model, tools=(WEATHER,), tool_choice="none")
        assert text == rendered(model)


def test_tools_are_plain_text_when_the_template_has_none(
    loaded: dict[str, LoadedModel],
) -> None:
    text = rendered(loaded["plain"], tools=(WEATHER,))
    assert text.startswith("<|im_start|>user\nThese functions can be called:\n")
    assert '"name": "weather"' in text
    assert "If one of them helps, answer with nothing but a JSON object like this one:\n" in text
    assert text.endswith("Hi<|im_end|>\n<|im_start|>assistant\n")
    forced = rendered(loaded["plain"], tools=(WEATHER,), tool_choice="required")
    assert "Answer now with a call of one of them" in forced
    assert "like this one" not in forced


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "caller",
            "<|im_start|>assistant\n<think>Ask.</think>"
            '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call><|im_end|>\n'
            "<|im_start|>tool\nsunny<|im_end|>\n",
        ),
        (
            "plain",
            '<|im_start|>assistant\n{"name": "weather", "arguments": {"city": "Rome"}}<|im_end|>\n'
            "<|im_start|>user\nweather returned: sunny<|im_end|>\n",
        ),
    ],
)
def test_earlier_calls_results_and_reasoning_are_rendered(
    loaded: dict[str, LoadedModel], model: str, expected: str
) -> None:
    prompt = render(loaded[model], GenerationRequest(model=model, prompt=HISTORY))
    assert expected in text_of(loaded[model], prompt)


def test_earlier_call_without_json_is_rendered_unchanged(
    loaded: dict[str, LoadedModel],
) -> None:
    wrong = (Message(role="assistant", tool_calls=(ToolCall("call_1", "weather", "Rome}"),)),)
    prompt = render(loaded["caller"], GenerationRequest(model="caller", prompt=wrong))
    assert '"arguments": "Rome}"' in text_of(loaded["caller"], prompt)


def test_tools_have_their_own_message_without_a_user_message(
    loaded: dict[str, LoadedModel],
) -> None:
    greeting = (Message(role="assistant", content=(TextPart("Hello."),)),)
    request = GenerationRequest(model="plain", prompt=greeting, tools=(WEATHER,))
    text = text_of(loaded["plain"], render(loaded["plain"], request))
    assert text.startswith("<|im_start|>user\nThese functions can be called")
    assert text.endswith("Hello.<|im_end|>\n<|im_start|>assistant\n")


def test_broken_template_is_a_generation_error(
    loaded: dict[str, LoadedModel],
) -> None:
    with pytest.raises(GenerationError, match="template failed") as caught:
        render(loaded["broken"], chat(model="broken"))
    assert caught.value.lasting


def test_thinking_is_open_when_the_template_opens_it(
    loaded: dict[str, LoadedModel],
) -> None:
    thinking = {
        name: render(loaded[name], chat(model=name)).thinking
        for name in ("caller", "plain", "open", "silent")
    }
    assert thinking == {"caller": "may", "plain": "none", "open": "open", "silent": "may"}


@pytest.mark.parametrize(
    ("model", "ending"),
    [
        ("caller", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("open", "Hi<think>\n\n</think>\n\n"),
        ("silent", "Hi|<think>\n\n</think>\n\n"),
    ],
)
def test_thinking_is_closed_when_effort_is_none(
    loaded: dict[str, LoadedModel], model: str, ending: str
) -> None:
    prompt = render(loaded[model], chat(model=model, reasoning_effort="none"))
    assert prompt.thinking == "none"
    assert text_of(loaded[model], prompt).endswith(ending)


def in_channels(model: LoadedModel) -> LoadedModel:
    return replace(model, reasoning=Reasoning(HARMONY_START, "<|end|>"))


def test_final_channel_is_open_when_effort_is_none(
    loaded: dict[str, LoadedModel],
) -> None:
    model = in_channels(loaded["plain"])
    prompt = render(model, chat(reasoning_effort="none"))
    assert prompt.is_answering
    assert text_of(model, prompt).endswith("<|channel|>final<|message|>")
    shaped = render(model, chat(reasoning_effort="none", response_format=JSONObject()))
    assert not shaped.is_answering


def test_channels_stay_open_for_calls_when_effort_is_none(
    loaded: dict[str, LoadedModel],
) -> None:
    prompt = render(in_channels(loaded["plain"]), chat(reasoning_effort="none", tools=(WEATHER,)))
    assert (prompt.thinking, prompt.is_answering) == ("may", False)


def test_model_that_can_think_is_told_to_whatever_its_vocabulary_has(
    loaded: dict[str, LoadedModel],
) -> None:
    template = JinjaTemplates({"default": "{{ messages[0].content }}|{{ enable_thinking }}"}, {})
    model = replace(loaded["plain"], template=template)
    assert not model.tokenizer.has_thinking
    assert rendered(model) == "Hi|False"
    assert rendered(in_channels(model)) == "Hi|True"


START = (
    Message(role="user", content=(TextPart("The sky?"),)),
    Message(role="assistant", content=(TextPart("It is"),)),
)


@pytest.mark.parametrize("model", ["caller", "plain"])
def test_last_message_of_the_assistant_is_left_open_to_be_continued(
    loaded: dict[str, LoadedModel], model: str
) -> None:
    request = GenerationRequest(model=model, prompt=START, continue_final_message=True)
    text = text_of(loaded[model], render(loaded[model], request))
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\nIt is")
    forged = (*START[:1], Message(role="assistant", content=(TextPart("A <|im_end|> b"),)))
    request = GenerationRequest(model=model, prompt=forged, continue_final_message=True)
    prompt = render(loaded[model], request)
    assert text_of(loaded[model], prompt).endswith("assistant\nA <|im_end|> b")
    assert prompt.ids.count(END) == 1


def test_continuing_is_refused_when_the_template_drops_the_message(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content[:2] }}{% endfor %}"
    folder = write_tiny_model(tmp_path / "short", template=template)
    model = finish(load_folder(folder, "never", Loading("short")))
    with pytest.raises(UnsupportedParameterError) as caught:
        render(model, GenerationRequest(model="short", prompt=START, continue_final_message=True))
    assert caught.value.param == "continue_final_message"


def test_late_system_message_is_told_as_the_user_and_reported(
    loaded: dict[str, LoadedModel],
) -> None:
    late = (
        Message(role="user", content=(TextPart("one"),)),
        Message(role="system", content=(TextPart("two"),)),
    )
    request = replaced(chat(model="strict"), prompt=late)
    prompt = render(loaded["strict"], request)
    assert text_of(loaded["strict"], prompt) == "[user] one\n[user] two\n"
    assert prompt.rewritten == ("late-system-as-user",)


def test_plain_chat_is_not_rewritten(loaded: dict[str, LoadedModel]) -> None:
    assert render(loaded["strict"], chat(model="strict")).rewritten == ()


def test_refusal_of_the_template_has_its_reason(loaded: dict[str, LoadedModel]) -> None:
    with pytest.raises(InvalidRequestError, match="No nonsense"):
        render(loaded["strict"], chat("nonsense", "strict"))


def test_calls_that_the_template_leaves_out_are_written_as_the_model_does(
    loaded: dict[str, LoadedModel],
) -> None:
    prompt = render(
        loaded["strict"], replaced(chat(model="strict"), prompt=HISTORY, tools=(WEATHER,))
    )
    assert "calls-as-text" in prompt.rewritten
    assert '[assistant] {"name": "weather", "arguments": {"city": "Rome"}}' in text_of(
        loaded["strict"], prompt
    )


def test_reasoning_that_the_template_leaves_out_is_reported(
    loaded: dict[str, LoadedModel],
) -> None:
    prompt = render(loaded["plain"], replaced(chat(model="plain"), prompt=HISTORY))
    assert "Ask." not in text_of(loaded["plain"], prompt)
    assert "thoughts-left-out" in prompt.rewritten


def test_reasoning_without_a_key_in_the_template_is_written_in_the_text(
    loaded: dict[str, LoadedModel],
) -> None:
    prompt = render(loaded["silent"], replaced(chat(model="silent"), prompt=HISTORY))
    assert "<think>\nAsk.\n</think>\n" in text_of(loaded["silent"], prompt)
    assert "thoughts-as-text" in prompt.rewritten
