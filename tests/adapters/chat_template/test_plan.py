"""Plans for real chat templates: what they do not take is rewritten into the nearest shape."""

from itertools import pairwise
from pathlib import Path

import pytest

from adapters.chat_template import Plan, Probe, Refusal, find_plan, rewrite, run, run_async
from adapters.chat_template.form import to_template_message, to_template_tool
from adapters.chat_template.jinja import TemplateRefusalError, render_template
from adapters.request import Message, TextPart, ToolCall

TEMPLATES = Path(__file__).parents[2] / "data" / "chat-templates"

PLANS = {
    "Qwen-Qwen3-0.6B": (),
    "mistralai-Mistral-Nemo-Instruct-2407": (
        "assistants-joined",
        "ids-of-nine",
        "late-system-as-user",
        "leading-system-joined",
        "lone-system-as-user",
        "text-and-call-as-text",
        "user-joined-to-result",
        "users-joined",
    ),
    "meta-llama-Llama-3.1-8B-Instruct": ("calls-one-by-one", "text-before-call"),
    "google-gemma-2-2b-it": (
        "assistants-joined",
        "calls-as-text",
        "results-as-user",
        "system-as-user",
        "users-joined",
        "tools-as-text",
    ),
    "ibm-granite-granite-3.3-2B-Instruct": ("calls-as-text",),
    "openai-gpt-oss-120b": (
        "calls-one-by-one",
        "late-system-as-user",
        "leading-system-joined",
        "text-before-call",
    ),
}


def renderer(name: str):
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")

    def render(probe: Probe) -> str | Refusal:
        messages = [to_template_message(message, probe.form) for message in probe.messages]
        tools = [to_template_tool(tool) for tool in probe.tools] or None
        arguments = {"add_generation_prompt": probe.generate, "enable_thinking": probe.thinking}
        try:
            return render_template(text, messages, tools, arguments)
        except TemplateRefusalError as error:
            return Refusal(str(error))

    return render


def plan_of(name: str) -> Plan:
    return run(find_plan(), renderer(name))


@pytest.mark.parametrize("name", PLANS)
def test_plan_has_what_a_template_does_not_take(name: str):
    plan = plan_of(name)
    assert tuple(note for note in plan.notes if note != "thoughts-left-out") == PLANS[name]
    assert plan.refused == {}


async def test_plan_is_the_same_with_an_engine_that_renders_by_requests():
    render = renderer("Qwen-Qwen3-0.6B")

    async def ask(probe: Probe) -> str | Refusal:
        return render(probe)

    assert await run_async(find_plan(), ask) == run(find_plan(), render)


def test_thoughts_have_the_key_that_the_template_reads():
    assert plan_of("openai-gpt-oss-120b").form.thought == "thinking"
    assert plan_of("Qwen-Qwen3-0.6B").form.thought == "reasoning_content"
    assert plan_of("upstage-Solar-Open-100B").form.thought == "reasoning"


def test_a_template_that_refuses_everything_has_its_reason():
    plan = run(find_plan(), lambda _: Refusal("Not today."))
    assert plan.refused["turns"] == "Not today."


def test_a_plain_history_is_not_changed():
    messages = (Message(role="user", content=(TextPart("Hi"),)),)
    for name in PLANS:
        assert rewrite(messages, plan_of(name).rewrites).messages is messages


def test_calls_are_tried_without_tools_where_the_template_refuses_those():
    plain = renderer("google-gemma-2-2b-it")

    def render(probe: Probe) -> str | Refusal:
        # As Command R+ has it: the template for tools wants another form of them.
        return Refusal("no 'parameter_definitions'") if probe.tools else plain(probe)

    plan = run(find_plan(), render)
    assert {"calls-as-text", "results-as-user"} <= plan.rewrites
    assert "a call" not in plan.refused


def test_calls_may_have_their_names_beside_the_function():
    template = (
        "{% for tool in tools %}{{ tool.function.name }} {% endfor %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% for call in m.tool_calls %}{{ call.name }}({{ call.arguments | tojson }}){% endfor %}"
        "{% endfor %}"
    )

    def render(probe: Probe) -> str | Refusal:
        messages = [to_template_message(message, probe.form) for message in probe.messages]
        return render_template(template, messages, [*map(to_template_tool, probe.tools)], {})

    plan = run(find_plan(), render)
    assert plan.form.flat
    assert not plan.rewrites


def test_an_empty_answer_is_left_out_where_the_template_refuses_it():
    def render(probe: Probe) -> str | Refusal:
        if any(m.role == "assistant" and not (m.text or m.tool_calls) for m in probe.messages):
            return Refusal("An assistant's message needs a text or calls.")
        roles = [message.role for message in probe.messages]
        if any(one == other == "user" for one, other in pairwise(roles)):
            return Refusal("Roles alternate.")
        return "\n".join(message.text for message in probe.messages)

    rewrites = run(find_plan(), render).rewrites
    assert {"empty-answers-left-out", "users-joined"} <= rewrites
    ask, more = (Message(role="user", content=(TextPart(text),)) for text in ("Hi", "Well?"))
    cancelled = Message(role="assistant", reasoning="Hm")
    told = rewrite((ask, cancelled, more), rewrites)
    assert [message.text for message in told.messages] == ["Hi\n\nWell?"]
    assert told.done == ("empty-answers-left-out", "users-joined")


def test_calls_of_a_turn_are_told_one_after_another_with_their_results():
    calls = tuple(ToolCall(f"call_{n}", "clock", "{}") for n in range(2))
    results = tuple(
        Message(role="tool", tool_call_id=f"call_{n}", content=(TextPart(f"r{n}"),)) for n in (1, 0)
    )
    turn = Message(role="assistant", tool_calls=calls)
    told = rewrite((turn, *results), frozenset({"calls-one-by-one"}))
    assert told.done == ("calls-one-by-one",)
    shown = [(m.role, m.text or m.tool_calls[0].id) for m in told.messages]
    assert shown == [
        ("assistant", "call_0"),
        ("tool", "r0"),
        ("assistant", "call_1"),
        ("tool", "r1"),
    ]
    assert [m.name for m in told.messages if m.role == "tool"] == ["clock", "clock"]
