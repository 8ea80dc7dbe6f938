"""Answers that are generated from a rendered prompt, on a stand-in that renders."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, StandIn, says_lines, stand_in
from servers.ollama_server import THINK

from adapters import sink
from adapters.config import OllamaConfig
from adapters.errors import (
    BadUpstreamError,
    GenerationError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.ollama.backend import OllamaBackend
from adapters.ollama.rendered.plan import to_plan
from adapters.ollama.rendered.thought_style import ThoughtStyle
from adapters.request import (
    Feature,
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Message,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)

USER = Message(role="user", content=(TextPart("Hi"),))
SCHEMA = {
    "type": "object",
    "properties": {"why": {"type": "string"}, "answer": {"type": "integer"}},
    "required": ["why", "answer"],
    "additionalProperties": False,
}
STRICT = JSONSchema(SCHEMA, strict=True)
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOL = Tool("count", "Counts.", NUMBER)
ANSWER = '{"why": "so", "answer": 2}'
COUNTS = {"prompt_eval_count": 10, "eval_count": 5}
VOCABULARY = ["<s>", "</s>", "<think>", "a"]


def chat(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**({"model": "m", "prompt": (USER,)} | fields))


def render(body: dict[str, Any]) -> str:
    """A template that thinks between `<think>` and `</think>`, and takes system messages first."""
    messages = body["messages"]
    if any(m["role"] == "system" for m in messages[1:]):
        raise ValueError("A system message comes first.")
    tools = "".join(f"[{tool['function']['name']}]" for tool in body.get("tools") or ())
    text = "".join(f"<{m['role']}>{m['content']}{_calls(m)}" for m in messages)
    think = "<think>\n\n</think>\n\n" if body.get("think") is False else "<think>\n"
    return f"{tools}{text}<assistant>" + (think if "think" in body else "")


def render_without_thoughts(body: dict[str, Any]) -> str:
    return render({key: value for key, value in body.items() if key != "think"})


def _calls(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls") or ()
    return "".join(f"({c['function']['name']} {c['function']['arguments']})" for c in calls)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with stand_in() as server:
        server.renders = render
        shows(server)
        yield server


@pytest.fixture
async def backend(standin: StandIn) -> AsyncIterator[OllamaBackend]:
    config = OllamaConfig(host=standin.host, first_token_timeout=5, token_timeout=5)
    backend = OllamaBackend(config)
    yield backend
    await backend.aclose()


def shows(
    standin: StandIn,
    *capabilities: str,
    control: tuple[str, ...] = (),
    template: str = "{% for m in messages %}",
    modelfile: str = "",
    **info: Any,
) -> None:
    """Report a model with these capabilities; `control`: its control tokens."""
    if standin.renders in (render, render_without_thoughts):
        standin.renders = render if "thinking" in capabilities else render_without_thoughts
    shown = {
        "capabilities": ["completion", *capabilities],
        "parameters": 'stop                           "<user>"',
        "template": template,
        "modelfile": modelfile,
        "model_info": {
            "llama.context_length": 4096,
            "tokenizer.ggml.tokens": VOCABULARY + list(control),
            "tokenizer.ggml.token_type": [3, 3, 1, 1] + [3] * len(control),
            "tokenizer.ggml.bos_token_id": 0,
            **info,
        },
    }

    async def script(reply: Reply) -> None:
        await reply.plain(200, json.dumps(shown).encode())

    standin.says("/api/show", script)
    tag = {"name": "m:latest", "digest": "d", "capabilities": ["completion", *capabilities]}
    standin.says("/api/tags", says_lines({"models": [tag]}))
    standin.says("/api/ps", says_lines({"models": []}))


def says_raw(standin: StandIn, *answers: tuple[str, dict[str, Any]]) -> None:
    """Answer the requests for raw texts one after another."""
    left = list(answers)

    async def script(reply: Reply) -> None:
        text, end = left.pop(0)
        lines = [{"response": piece} for piece in text.split("|")]
        await says_lines(*lines, {"response": "", "done": True} | COUNTS | end)(reply)

    standin.says("/api/generate", script)


async def events_of(backend: OllamaBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def reasoning_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta))


def end_of(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


async def test_schema_is_generated_from_the_rendered_prompt(
    standin: StandIn, backend: OllamaBackend
):
    says_raw(standin, (ANSWER, {}))
    events = await events_of(backend, chat(response_format=STRICT, max_tokens=50))
    assert isinstance(events[0], Started)
    assert text_of(events) == ANSWER
    (sent,) = standin.bodies("/api/generate")
    assert (sent["prompt"], sent["raw"]) == ("<user>Hi<assistant>", True)
    assert list(sent["format"]["properties"]) == ["why", "answer"]
    assert sent["options"]["num_predict"] == 50
    assert not standin.bodies("/api/chat")
    assert (end_of(events).usage.prompt_tokens, end_of(events).usage.completion_tokens) == (10, 5)


@pytest.mark.parametrize("words", [1, 6000])
async def test_prompt_and_answer_have_the_same_context(
    standin: StandIn, backend: OllamaBackend, words: int
):
    """Another one would load the model anew."""
    length: dict[str, Any] = {"llama.context_length": 32768}
    shows(standin, **length)
    says_raw(standin, (ANSWER, {}))
    question = Message(role="user", content=(TextPart("word " * words),))
    await events_of(backend, chat(response_format=STRICT, prompt=(question,)))
    contexts = {body["options"]["num_ctx"] for body in standin.rendered}
    assert contexts == {standin.bodies("/api/generate")[0]["options"]["num_ctx"]}
    assert {body["options"]["num_predict"] for body in standin.rendered} == {1}


async def test_json_mode_is_a_grammar_of_an_object(standin: StandIn, backend: OllamaBackend):
    says_raw(standin, ('{"a": 1}', {}))
    await events_of(backend, chat(response_format=JSONObject()))
    assert standin.bodies("/api/generate")[0]["format"] == {"type": "object"}


async def test_forced_call_is_read_from_the_raw_text(standin: StandIn, backend: OllamaBackend):
    shows(standin, "tools")
    says_raw(standin, ('{"name": "co|unt", "parameters": {"n"|: 1}}', {}))
    events = await events_of(backend, chat(tools=(TOOL,), tool_choice="required"))
    assert [e.name for e in events if isinstance(e, ToolCallStarted)] == ["count"]
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(arguments) == {"n": 1}
    assert end_of(events).reason == "tool_calls"
    assert standin.bodies("/api/generate")[0]["prompt"] == "[count]<user>Hi<assistant>"


async def test_thought_comes_first_and_the_answer_after_its_end(
    standin: StandIn, backend: OllamaBackend
):
    shows(standin, "thinking")
    thought = {"prompt_eval_count": 7, "eval_count": 4}
    says_raw(standin, (" One and| one. ", thought), (ANSWER, {"prompt_eval_count": 13}))
    request = chat(response_format=STRICT, reasoning_effort="high", max_tokens=50, stop=("x",))
    events = await events_of(backend, request)
    assert (reasoning_of(events), text_of(events)) == ("One and one.", ANSWER)
    assert len([e for e in events if isinstance(e, Started)]) == 1
    first, second = standin.bodies("/api/generate")
    assert first["prompt"] == "<user>Hi<assistant><think>\n"
    assert first["options"]["stop"] == ["</think>", "<user>"]
    assert "format" not in first
    assert second["prompt"] == f"{first['prompt']} One and one.\n</think>\n\n"
    assert second["options"]["num_predict"] == 46
    assert second["options"]["stop"] == ["x"]
    usage = end_of(events).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens) == (7, 9, 4)


async def test_constrained_answer_of_a_template_that_thinks_unlisted_follows_an_ended_thought(
    standin: StandIn, backend: OllamaBackend
):
    standin.renders = lambda body: render({"think": True} | body)
    says_raw(standin, (ANSWER, {}))
    events = await events_of(backend, chat(response_format=STRICT))
    assert (text_of(events), reasoning_of(events)) == (ANSWER, "")
    prompt = standin.bodies("/api/generate")[-1]["prompt"]
    assert prompt == "<user>Hi<assistant><think>\n\n</think>\n\n"


@pytest.mark.parametrize("tools", [(), (TOOL,)])
async def test_stop_strings_of_the_modelfile_cut_no_json(
    standin: StandIn, backend: OllamaBackend, tools: tuple[Tool, ...]
):
    shows(standin)
    says_raw(standin, (ANSWER, {}))
    await events_of(backend, chat(response_format=STRICT, tools=tools))
    assert standin.bodies("/api/generate")[-1]["options"]["stop"] == []


async def test_usage_keeps_to_the_limit_where_words_that_close_a_thought_are_written(
    standin: StandIn, backend: OllamaBackend
):
    shows(standin, "thinking")
    thought = {"done_reason": "length", "prompt_eval_count": 7, "eval_count": 5}
    answer = {"done_reason": "length", "prompt_eval_count": 16, "eval_count": 3}
    says_raw(standin, ("Well, |it", thought), ("Hello", answer))
    request = chat(reasoning_effort="low", reasoning_budget=5, max_tokens=8)
    assert end_of(await events_of(backend, request)).usage.completion_tokens == 8


async def test_thought_that_ends_at_the_limit_leaves_no_answer(
    standin: StandIn, backend: OllamaBackend
):
    shows(standin, "thinking")
    says_raw(standin, ("Well.", {"prompt_eval_count": 7, "eval_count": 8}))
    request = chat(response_format=STRICT, reasoning_effort="low", max_tokens=8)
    events = await events_of(backend, request)
    assert text_of(events) == ""
    assert end_of(events).reason == "length"
    assert end_of(events).usage.completion_tokens == 8


async def test_thought_that_takes_the_whole_limit_ends_the_answer(
    standin: StandIn, backend: OllamaBackend
):
    shows(standin, "thinking")
    says_raw(standin, ("Well", {"done_reason": "length"}))
    request = chat(response_format=STRICT, reasoning_effort="low", max_tokens=5)
    events = await events_of(backend, request)
    assert (reasoning_of(events), text_of(events)) == ("Well", "")
    assert end_of(events).reason == "length"
    assert end_of(events).usage.reasoning_tokens == 5


@pytest.mark.parametrize("answer_format", [None, STRICT])
async def test_thought_is_ended_when_its_budget_is_spent(
    standin: StandIn, backend: OllamaBackend, answer_format: JSONSchema | None
):
    shows(standin, "thinking")
    says_raw(standin, ("Well, |it", {"done_reason": "length"}), (ANSWER, {"eval_count": 6}))
    request = chat(
        response_format=answer_format, reasoning_effort="low", reasoning_budget=5, max_tokens=50
    )
    events = await events_of(backend, request)
    assert (reasoning_of(events), text_of(events)) == ("Well, it", ANSWER)
    first, second = standin.bodies("/api/generate")
    assert [body["options"]["num_predict"] for body in (first, second)] == [5, 45]
    assert second["prompt"] == "<user>Hi<assistant><think>\nWell, it\n</think>\n\n"
    assert end_of(events).reason == "stop"


@pytest.mark.ollama
async def test_thought_with_a_budget_is_written_when_ollama_is_real(ollama_host: str):
    """Ollama would read the raw text after `<think>` as a thought."""
    backend = OllamaBackend(OllamaConfig(host=ollama_host))
    request = chat(
        model=THINK,
        reasoning_effort="low",
        reasoning_budget=4,
        max_tokens=8,
        sampling=Sampling(temperature=0),
    )
    events = await events_of(backend, request)
    await backend.aclose()
    assert reasoning_of(events)


async def test_limit_below_the_budget_ends_the_answer(standin: StandIn, backend: OllamaBackend):
    shows(standin, "thinking")
    says_raw(standin, ("Well", {"done_reason": "length"}))
    request = chat(reasoning_effort="low", reasoning_budget=50, max_tokens=5)
    assert end_of(await events_of(backend, request)).reason == "length"


@pytest.mark.parametrize("reason", ["tools", "unknown words"])
async def test_budget_that_cannot_be_kept_is_refused_or_named_as_ignored(
    standin: StandIn, backend: OllamaBackend, reason: str
):
    shows(standin, "thinking", "tools")
    if reason == "unknown words":
        standin.renders = lambda body: "".join(m["content"] for m in body["messages"])
    standin.says("/api/chat", says_lines({"message": {"content": "Two"}}, {"done": True} | COUNTS))
    tools = (TOOL,) if reason == "tools" else ()
    request = chat(tools=tools, reasoning_effort="low", reasoning_budget=5)
    with pytest.raises(UnsupportedParameterError) as caught:
        await events_of(backend, request)
    assert caught.value.param == "reasoning_budget"
    wish = chat(
        tools=tools,
        reasoning_effort="low",
        reasoning_budget=5,
        wishes=frozenset({"reasoning_budget"}),
    )
    events = await events_of(backend, wish)
    assert text_of(events) == "Two"
    assert isinstance(events[0], Started)
    assert events[0].ignored == ("reasoning_budget",)


async def test_thought_between_unknown_words_is_refused_by_name(
    standin: StandIn, backend: OllamaBackend
):
    shows(standin, "thinking")
    standin.renders = lambda body: "".join(m["content"] for m in body["messages"])
    says_raw(standin, (ANSWER, {}))
    with pytest.raises(UnsupportedParameterError) as caught:
        await events_of(backend, chat(response_format=STRICT, reasoning_effort="low"))
    assert caught.value.param == "reasoning_effort"
    assert text_of(await events_of(backend, chat(response_format=STRICT))) == ANSWER


async def test_effort_none_skips_the_thought(standin: StandIn, backend: OllamaBackend):
    shows(standin, "thinking")
    says_raw(standin, (ANSWER, {}))
    events = await events_of(backend, chat(response_format=STRICT, reasoning_effort="none"))
    assert not reasoning_of(events)
    (sent,) = standin.bodies("/api/generate")
    assert sent["prompt"] == "<user>Hi<assistant><think>\n\n</think>\n\n"


async def test_thought_that_ends_in_a_control_token_is_read_by_ollama(
    standin: StandIn, backend: OllamaBackend
):
    """A raw answer shows no control tokens."""
    shows(standin, "thinking", control=("</think>",))
    standin.says(
        "/api/chat",
        says_lines(
            {"message": {"thinking": "One"}},
            {"message": {"thinking": " and one."}},
            {"message": {"content": "Two"}},
        ),
    )
    says_raw(standin, (ANSWER, {"prompt_eval_count": 13}))
    events = await events_of(backend, chat(response_format=STRICT, reasoning_effort="low"))
    assert (reasoning_of(events), text_of(events)) == ("One and one.", ANSWER)
    (sent,) = standin.bodies("/api/generate")
    assert sent["prompt"] == "<user>Hi<assistant><think>\nOne and one.\n</think>\n\n"
    usage = end_of(events).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 7)


@pytest.mark.parametrize("words", ["failed to parse it", "error parsing tool call: raw=x"])
@pytest.mark.parametrize("beginning", ["", "One and one."])
async def test_answer_follows_a_thought_that_a_parser_loses(
    standin: StandIn, backend: OllamaBackend, words: str, beginning: str
):
    shows(standin, "thinking", control=("</think>",), modelfile="PARSER cogito\n")
    loses(standin, *[{"message": {"thinking": beginning}}][: len(beginning)], words=words)
    says_raw(standin, (ANSWER, {}))
    request = chat(response_format=STRICT, reasoning_effort="low", max_tokens=50)
    events = await events_of(backend, request)
    assert (reasoning_of(events), text_of(events)) == (beginning, ANSWER)
    (sent,) = standin.bodies("/api/generate")
    assert sent["prompt"] == f"<user>Hi<assistant><think>\n{beginning}\n</think>\n\n"


async def test_prompt_does_not_begin_with_the_token_that_the_vocabulary_adds(
    standin: StandIn, backend: OllamaBackend
):
    info: dict[str, Any] = {"tokenizer.ggml.add_bos_token": True}
    shows(standin, **info)
    standin.renders = lambda body: "<s>" + render_without_thoughts(body)
    says_raw(standin, (ANSWER, {}))
    await events_of(backend, chat(response_format=STRICT))
    assert standin.bodies("/api/generate")[0]["prompt"] == "<user>Hi<assistant>"


async def test_final_message_is_continued(standin: StandIn, backend: OllamaBackend):
    shows(standin, "thinking")
    says_raw(standin, (" Paris.", {}))
    begun = Message(role="assistant", content=(TextPart("It is"),))
    events = await events_of(backend, chat(prompt=(USER, begun), continue_final_message=True))
    assert text_of(events) == " Paris."
    (sent,) = standin.bodies("/api/generate")
    assert sent["prompt"] == "<user>Hi<assistant><think>\n\n</think>\n\nIt is"
    assert "format" not in sent


async def test_final_message_that_is_the_only_one_is_continued(
    standin: StandIn, backend: OllamaBackend
):
    says_raw(standin, (" Paris.", {}))
    begun = Message(role="assistant", content=(TextPart("It is"),))
    events = await events_of(backend, chat(prompt=(begun,), continue_final_message=True))
    assert text_of(events) == " Paris."
    (sent,) = standin.bodies("/api/generate")
    assert sent["prompt"] == "<user><assistant>It is"


async def test_text_that_an_answer_continues_is_counted(standin: StandIn, backend: OllamaBackend):
    shows(standin, "thinking")
    loaded = {"name": "m:latest", "model": "m:latest", "digest": "d", "context_length": 4096}
    standin.says("/api/ps", says_lines({"models": [loaded]}))
    await backend.list_models()
    counts: list[int] = []
    for text in ("It is", "It is" + " so" * 90):
        begun = Message(role="assistant", content=(TextPart(text),))
        request = chat(prompt=(USER, begun), continue_final_message=True)
        counts.append((await backend.count_tokens(request)).tokens)
    assert counts[1] - counts[0] >= 60


@pytest.mark.parametrize(
    ("is_thinking", "is_continued", "after"),
    [(True, False, "<think>"), (False, False, "<lead>"), (False, True, "<lead>It is")],
)
def test_plan_knows_the_text_between_prompt_and_answer(
    is_thinking: bool, is_continued: bool, after: str
):
    style = ThoughtStyle(lead="<lead>", opening="<think>", close="</think>")
    begun = Message(role="assistant", content=(TextPart("It is"),))
    request = chat(
        prompt=(USER, begun) if is_continued else (USER,),
        continue_final_message=is_continued,
        reasoning_effort=None if is_thinking or is_continued else "none",
        response_format=None if is_continued else STRICT,
    )
    conversation, text = to_plan(request).beginning(style)
    assert text == after
    assert (conversation.think is False) == (not is_thinking)


async def test_ollama_that_does_not_render_keeps_the_earlier_way(
    standin: StandIn, backend: OllamaBackend, caplog: pytest.LogCaptureFixture
):
    standin.renders = None
    standin.says("/api/chat", says_lines({"message": {"content": ANSWER}}, {"done": True}))
    await backend.list_models()
    with caplog.at_level("WARNING", logger="tandem"):
        for _ in range(2):
            assert text_of(await events_of(backend, chat(response_format=STRICT))) == ANSWER
    assert len(standin.bodies("/api/chat")) == 2
    assert len(standin.rendered) == 1
    assert len(caplog.records) == 1
    (model,) = await backend.list_models()
    assert "not-rendered" in model.template
    begun = Message(role="assistant", content=(TextPart("It is"),))
    with pytest.raises(UnsupportedParameterError) as caught:
        await events_of(backend, chat(prompt=(USER, begun), continue_final_message=True))
    assert caught.value.param == "continue_final_message"
    wish = frozenset[Feature]({"continue_final_message"})
    request = chat(prompt=(USER, begun), continue_final_message=True, wishes=wish)
    assert text_of(await events_of(backend, request))
    assert standin.bodies("/api/chat")[-1]["messages"][-1] == {
        "role": "assistant",
        "content": "It is",
    }


async def test_answer_that_breaks_a_strict_schema_is_an_error_beside_stop_strings(
    standin: StandIn, backend: OllamaBackend
):
    request = chat(response_format=STRICT, stop=("END",))
    says_raw(standin, ('{"why": "so", "ans', {}), ('{"why": "so"}', {}))
    assert text_of(await events_of(backend, request)) == '{"why": "so", "ans'  # Cut by the string.
    with pytest.raises(GenerationError):
        await events_of(backend, request)


LOST = {
    "error": "llama-server chat error: map[code:500 message:The model produced output that does not"
    " match the expected peg-native format type:server_error]"
}


def loses(standin: StandIn, *lines: dict[str, Any], words: str = "") -> None:
    error = {"error": words} if words else LOST
    if lines:
        standin.says("/api/chat", says_lines(*lines, error))
        return

    async def script(reply: Reply) -> None:
        await reply.plain(500, json.dumps(error).encode())

    standin.says("/api/chat", script)


async def test_answer_lost_to_a_parser_is_generated_anew(standin: StandIn, backend: OllamaBackend):
    loses(standin)
    says_raw(standin, ("Hello", {}))
    events = await events_of(backend, chat())
    assert text_of(events) == "Hello"
    assert standin.bodies("/api/generate")[0]["prompt"] == "<user>Hi<assistant>"
    assert (await backend.health()).breaker == "closed"


async def test_answer_that_breaks_off_is_continued(standin: StandIn, backend: OllamaBackend):
    loses(standin, {"message": {"content": "Hel"}}, {"message": {"content": "lo"}})
    says_raw(standin, (" Ann", {"prompt_eval_count": 12}))
    events = await events_of(backend, chat(max_tokens=20))
    assert text_of(events) == "Hello Ann"
    assert standin.bodies("/api/generate")[0]["options"]["num_predict"] == 18
    assert len([e for e in events if isinstance(e, Started)]) == 1
    assert standin.bodies("/api/generate")[0]["prompt"] == "<user>Hi<assistant>Hello"
    usage = end_of(events).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 7)


@pytest.mark.parametrize(
    ("parser", "words"),
    [
        ("laguna", "failed to parse Laguna JSON tool call: unexpected end of JSON input"),
        ("qwen3-coder", "XML syntax error on line 3: element <function> closed by </parameter>"),
        ("cogito", "invalid format"),
        ("harmony", 'error parsing tool call: raw=\'{"a": "out of memory"\', err=EOF'),
    ],
)
@pytest.mark.parametrize("beginning", ["", "Hel"])
async def test_answer_that_a_built_in_parser_loses_is_continued(
    standin: StandIn, backend: OllamaBackend, parser: str, words: str, beginning: str
):
    shows(standin, "tools", template="{{ .Prompt }}", modelfile=f"FROM x\nPARSER {parser}\n")
    lines = [{"message": {"content": beginning}}] if beginning else []
    loses(standin, *lines, words=words)
    says_raw(standin, (" <tool>", {}))
    events = await events_of(backend, chat(tools=(TOOL,)))
    assert text_of(events) == f"{beginning} <tool>"
    assert standin.bodies("/api/generate")[0]["prompt"].endswith(f"<assistant>{beginning}")


async def test_unexplained_failure_without_a_parser_stays_an_error(
    standin: StandIn, backend: OllamaBackend
):
    shows(standin, template="{{ .Prompt }}")
    loses(standin, words="no words that are known")
    with pytest.raises(BadUpstreamError):
        await events_of(backend, chat())
    assert not standin.bodies("/api/generate")


async def test_lost_answer_after_a_call_stays_an_error(standin: StandIn, backend: OllamaBackend):
    shows(standin, "tools")
    call = {"function": {"name": "count", "arguments": {"n": 1}}}
    loses(standin, {"message": {"tool_calls": [call]}})
    with pytest.raises(BadUpstreamError):
        await events_of(backend, chat(tools=(TOOL,)))


THOUGHT: tuple[dict[str, Any], ...] = (
    {"message": {"thinking": "Hm"}},
    {"message": {"content": "Yes"}},
    {"done": True, "done_reason": "stop", **COUNTS},
)


async def test_answer_that_begins_with_an_excluded_thought_follows_an_empty_one(
    standin: StandIn, backend: OllamaBackend
):
    shows(standin, "thinking")
    standin.says("/api/chat", says_lines(*THOUGHT))
    says_raw(standin, ("Hello", {}))
    events = await events_of(backend, chat(reasoning_effort="none"))
    assert text_of(events) == "Hello"
    assert not [event for event in events if isinstance(event, ReasoningDelta)]
    assert len([event for event in events if isinstance(event, Started)]) == 1
    prompt = standin.bodies("/api/generate")[0]["prompt"]
    assert prompt.startswith("<user>Hi<assistant><think>")
    assert prompt.split() == ["<user>Hi<assistant><think>", "</think>"]


@pytest.mark.parametrize(
    "fields", [{"reasoning_effort": "none", "tools": (TOOL,)}, {"reasoning_effort": "low"}, {}]
)
async def test_thought_that_may_be_there_is_kept(
    standin: StandIn, backend: OllamaBackend, fields: dict[str, Any]
):
    shows(standin, "thinking", "tools")
    standin.says("/api/chat", says_lines(*THOUGHT))
    events = await events_of(backend, chat(**fields))
    assert text_of(events) == "Yes"
    assert [event.text for event in events if isinstance(event, ReasoningDelta)] == ["Hm"]
    started = events[0]
    assert isinstance(started, Started)
    is_excluded = fields.get("reasoning_effort") == "none"
    assert started.ignored == (("reasoning_effort",) if is_excluded else ())
    assert end_of(events).usage.reasoning_tokens == 1


@pytest.mark.parametrize("reads", [True, False])
async def test_thought_that_a_parser_takes_for_text_is_generated_first(
    standin: StandIn, backend: OllamaBackend, reads: bool
):
    """llama-server finds the end of a thought in some templates only."""
    shows(standin, "thinking")
    key = "thinking" if reads else "content"
    standin.says(
        "/api/chat", says_lines({"message": {key: "Hm"}, "done": True, "done_reason": "stop"})
    )
    says_raw(standin, ("Hm.", {}), ("Yes", {}))
    events = await events_of(backend, chat(reasoning_effort="low"))
    assert reasoning_of(events) == ("Hm" if reads else "Hm.")
    assert text_of(events) == ("" if reads else "Yes")
    bodies = standin.bodies("/api/generate")
    assert [body["prompt"] for body in bodies] == [
        "<user>Hi<assistant><think>\n",
        "<user>Hi<assistant><think>\nHm.\n</think>\n\n",
    ][: 0 if reads else 2]


async def test_excluded_thought_is_kept_where_ollama_does_not_render(
    standin: StandIn, backend: OllamaBackend
):
    standin.renders = None
    shows(standin, "thinking")
    standin.says("/api/chat", says_lines(*THOUGHT))
    events = await events_of(backend, chat(reasoning_effort="none"))
    assert text_of(events) == "Yes"
    assert [event.text for event in events if isinstance(event, ReasoningDelta)] == ["Hm"]


REFUSED = {
    "error": json.dumps(
        {
            "error": {
                "code": 400,
                "message": "Unable to generate parser for this template. Automatic parser"
                " generation failed: \n------------\nWhile executing CallExpression at line 18\n"
                "Error: Jinja Exception: A system message comes first.",
                "type": "invalid_request_error",
            }
        }
    )
}


def refuse_system(standin: StandIn) -> None:
    async def script(reply: Reply) -> None:
        messages = standin.bodies("/api/chat")[-1]["messages"]
        if any(message["role"] == "system" for message in messages):
            await reply.plain(400, json.dumps(REFUSED).encode())
        else:
            await says_lines({"message": {"content": "Yes"}}, {"done": True})(reply)

    standin.says("/api/chat", script)


RULE = Message(role="system", content=(TextPart("Be short."),))
LATE = (USER, RULE)


def without_system(body: dict[str, Any]) -> str:
    if any(message["role"] == "system" for message in body["messages"]):
        raise ValueError("A system message comes first.")
    return render(body)


async def test_refused_conversation_is_rewritten(standin: StandIn, backend: OllamaBackend):
    standin.renders = without_system
    refuse_system(standin)
    await backend.list_models()
    assert text_of(await events_of(backend, chat(prompt=(RULE, USER)))) == "Yes"
    first, second = standin.bodies("/api/chat")
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert {m["role"] for m in second["messages"]} == {"user"}
    (model,) = await backend.list_models()
    assert "system-as-user" in model.template
    assert "Be short." in "".join(m["content"] for m in second["messages"])


async def test_tools_that_a_template_leaves_out_are_told_in_words(
    standin: StandIn, backend: OllamaBackend
):
    shows(standin, "tools")
    standin.renders = lambda body: render({**body, "tools": ()})
    standin.says("/api/chat", says_lines({"message": {"content": "Yes"}}, {"done": True}))
    events = await events_of(backend, chat(tools=(TOOL,)))
    assert isinstance(events[0], Started)
    assert events[0].template == ("tools-as-text",)
    (sent,) = standin.bodies("/api/chat")
    assert "tools" not in sent
    assert '{"name": "count", "description": "Counts."' in sent["messages"][0]["content"]
    (model,) = await backend.list_models()
    assert model.template[-1] == "tools-as-text"


def only_first_system(body: dict[str, Any]) -> str:
    """A template that leaves out all system messages but one at the beginning."""
    messages = body["messages"]
    shown = [m for at, m in enumerate(messages) if not at or m["role"] != "system"]
    return render({**body, "messages": shown})


async def test_message_that_a_template_would_leave_out_is_rewritten(
    standin: StandIn, backend: OllamaBackend
):
    standin.renders = only_first_system
    standin.says("/api/chat", says_lines({"message": {"content": "Yes"}}, {"done": True}))
    events = await events_of(backend, chat(prompt=LATE))
    assert isinstance(events[0], Started)
    assert events[0].template == ("late-system-as-user",)
    (sent,) = (body for body in standin.bodies("/api/chat") if body["stream"])
    assert [m["role"] for m in sent["messages"]] == ["user", "user"]


async def test_reason_of_a_template_is_the_message(standin: StandIn, backend: OllamaBackend):
    standin.renders = None
    refuse_system(standin)
    with pytest.raises(InvalidRequestError) as caught:
        await events_of(backend, chat(prompt=LATE))
    assert caught.value.message == (
        "The model's chat template rejects these messages: A system message comes first."
    )
    assert caught.value.param == "messages"


async def test_call_in_words_is_generated_anew_under_its_schema(
    standin: StandIn, backend: OllamaBackend
):
    standin.says(
        "/api/chat",
        says_lines(
            {"message": {"content": '{"name": "count", '}},
            {"message": {"content": '"parameters": {"n": "many'}},
        ),
    )
    says_raw(standin, ('{"name": "count", "parameters": {"n": 3}}', {}))
    events = await events_of(backend, chat(tools=(TOOL,)))
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(arguments) == {"n": 3}
    assert end_of(events).reason == "tool_calls"
    assert "tools" not in standin.bodies("/api/chat")[0]
    assert "These functions can be called" in standin.bodies("/api/generate")[0]["prompt"]


async def test_other_text_of_a_model_without_tools_is_an_answer(
    standin: StandIn, backend: OllamaBackend
):
    standin.says("/api/chat", says_lines({"message": {"content": "{} is empty."}}, {"done": True}))
    events = await events_of(backend, chat(tools=(TOOL,)))
    assert (text_of(events), end_of(events).reason) == ("{} is empty.", "stop")


@pytest.mark.parametrize(
    "arguments", [{"n": "many"}, {"n": 3}], ids=["does not match", "has a pattern"]
)
async def test_free_call_of_a_strict_tool_is_generated_anew(
    standin: StandIn, backend: OllamaBackend, arguments: dict[str, Any]
):
    shows(standin, "tools")
    parameters = NUMBER | {"additionalProperties": False}
    if arguments["n"] == 3:
        parameters["properties"] = {"n": {"type": "string", "pattern": "^[0-9]$"}}
    call = {"function": {"name": "count", "arguments": arguments}}
    standin.says("/api/chat", says_lines({"message": {"tool_calls": [call]}}, {"done": True}))
    value = '"3"' if arguments["n"] == 3 else "3"
    says_raw(standin, (f'{{"name": "count", "parameters": {{"n": {value}}}}}', {}))
    tool = Tool("count", "Counts.", parameters, strict=True)
    events = await events_of(backend, chat(tools=(tool,)))
    written = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(written) == {"n": json.loads(value)}
    assert len([e for e in events if isinstance(e, ToolCallStarted)]) == 1
    assert end_of(events).reason == "tool_calls"


async def test_calls_of_a_history_are_told_to_a_model_without_tools(
    standin: StandIn, backend: OllamaBackend
):
    standin.says("/api/chat", says_lines({"message": {"content": "3"}}, {"done": True}))
    called = Message(role="assistant", tool_calls=(ToolCall("c", "count", '{"n": 3}'),))
    result = Message(role="tool", tool_call_id="c", content=(TextPart("three"),))
    events = await events_of(backend, chat(prompt=(USER, called, result)))
    assert isinstance(events[0], Started)
    assert events[0].template == ("tools-as-text",)
    (sent,) = standin.bodies("/api/chat")
    assert [m["role"] for m in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["messages"][2]["content"] == "The function count gave: three"
