"""Answers that must match a schema or be a call, and the errors of those that are not."""

import json
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, StandIn, says_lines

from adapters import sink
from adapters.errors import GenerationError, InvalidRequestError
from adapters.events import Event, Finished, Started, TextDelta, ToolCallDelta, ToolCallStarted
from adapters.ollama.backend import OllamaBackend
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Lark,
    Message,
    Regex,
    Sampling,
    TextPart,
    Tool,
)

QUESTION = Message(role="user", content=(TextPart("Hi"),))
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
STRICT = JSONSchema(NUMBER, strict=True)
LOOSE = JSONSchema(NUMBER)
TOOL = Tool("count", None, NUMBER)
TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
STRICT_TOOL = Tool("count", None, NUMBER, strict=True)


def chat(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**({"model": "m", "prompt": (QUESTION,)} | fields))


def says(standin: StandIn, *texts: str, reason: str = "stop", **last: Any) -> None:
    """An answer of these pieces, by the chat and the raw route."""
    lines = [{"message": {"content": text}, "response": text, "done": False} for text in texts]
    end = {"message": {"content": "", **last}, "done": True, "done_reason": reason}
    for path in ("/api/chat", "/api/generate"):
        standin.says(path, says_lines(*lines, end))


async def events_of(backend: OllamaBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


async def keep_events(
    backend: OllamaBackend, request: GenerationRequest, events: list[Event]
) -> None:
    async for event in sink.events(backend, request):
        events.append(event)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (STRICT, '{"n": "one"}'),
        (STRICT, "{}"),
        (STRICT, ""),
        (LOOSE, "It is one."),
        (LOOSE, ""),
        (JSONObject(), "[1]"),
        (JSONObject(), '{"n": 1'),
        (JSONObject(), ""),
    ],
)
async def test_answer_of_another_shape_is_no_success(
    standin: StandIn, backend: OllamaBackend, wanted: JSONObject | JSONSchema, text: str
):
    says(standin, text)
    with pytest.raises(GenerationError, match="is not the JSON"):
        await events_of(backend, chat(response_format=wanted))


@pytest.mark.parametrize(
    ("sampling", "lasting"),
    [
        (Sampling(), False),
        (Sampling(temperature=0.5), False),
        (Sampling(temperature=0), True),
        (Sampling(temperature=0.5, seed=1), True),
    ],
)
@pytest.mark.parametrize(
    "wish", [{"response_format": LOOSE}, {"tools": (TOOL,), "tool_choice": "required"}]
)
async def test_broken_promise_lasts_where_the_same_answer_would_come_again(
    standin: StandIn, backend: OllamaBackend, wish: Any, sampling: Sampling, lasting: bool
):
    lists(standin)
    says(standin, "I would rather not.")
    with pytest.raises(GenerationError) as caught:
        await events_of(backend, chat(sampling=sampling, **wish))
    assert caught.value.lasting == lasting


@pytest.mark.parametrize(
    ("wanted", "text"),
    [(STRICT, '{"n": 1}'), (LOOSE, '{"n": "one"}'), (JSONObject(), ' {"a": []} ')],
)
async def test_answer_of_its_shape_passes(
    standin: StandIn, backend: OllamaBackend, wanted: JSONObject | JSONSchema, text: str
):
    says(standin, text[:4], text[4:])
    events = await events_of(backend, chat(response_format=wanted))
    assert text_of(events) == text
    assert isinstance(events[-1], Finished)


async def test_json_cut_by_the_limit_ends_with_length(standin: StandIn, backend: OllamaBackend):
    says(standin, '{"n": ', reason="length")
    end = (await events_of(backend, chat(response_format=STRICT)))[-1]
    assert isinstance(end, Finished)
    assert end.reason == "length"


async def test_json_cut_by_a_stop_string_is_accepted(standin: StandIn, backend: OllamaBackend):
    says(standin, '{"n": ')
    events = await events_of(backend, chat(response_format=STRICT, stop=("1",)))
    assert text_of(events) == '{"n": '


async def test_schema_that_is_none_is_the_callers_mistake(standin: StandIn, backend: OllamaBackend):
    says(standin, "{}")
    wanted = JSONSchema({"type": "nonsense"}, strict=True)
    with pytest.raises(InvalidRequestError) as caught:
        await events_of(backend, chat(response_format=wanted))
    assert caught.value.param == "response_format.json_schema.schema.type"


# --- calls -----------------------------------------------------------------------------------


def lists(standin: StandIn, capability: str = "tools") -> None:
    tag = {"name": "m:latest", "capabilities": [capability], "details": {"context_length": 4096}}
    standin.says("/api/tags", says_lines({"models": [tag]}))


def call(**arguments: Any) -> dict[str, Any]:
    return {"function": {"name": "count", "arguments": arguments}}


async def test_free_call_of_a_strict_tool_is_checked(standin: StandIn, backend: OllamaBackend):
    says(standin, tool_calls=[call(n="one")])
    with pytest.raises(GenerationError):
        await events_of(backend, chat(tools=(STRICT_TOOL,)))
    says(standin, tool_calls=[call(n=1)])
    assert len(await events_of(backend, chat(tools=(STRICT_TOOL,)))) == 4


async def test_second_call_is_withheld_without_parallel_tool_calls(
    standin: StandIn, backend: OllamaBackend
):
    says(standin, tool_calls=[call(n=1), call(n=2)])
    both = await events_of(backend, chat(tools=(TOOL,)))
    one = await events_of(backend, chat(tools=(TOOL,), parallel_tool_calls=False))
    assert [len([e for e in es if isinstance(e, ToolCallStarted)]) for es in (both, one)] == [2, 1]
    end = one[-1]
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"


async def test_forced_call_is_read_from_the_text(standin: StandIn, backend: OllamaBackend):
    lists(standin)
    says(standin, '{"name": "co', 'unt", "param', 'eters": {"n"', ": 1}", "}")
    events = await events_of(backend, chat(tools=(TOOL,), tool_choice="required"))
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(arguments) == {"n": 1}
    assert not text_of(events)
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"


async def test_forced_call_that_was_not_written_is_no_success(
    standin: StandIn, backend: OllamaBackend
):
    lists(standin)
    says(standin, "I would rather not.")
    with pytest.raises(GenerationError, match="did not write the tool call"):
        await events_of(backend, chat(tools=(TOOL,), tool_choice="required"))


async def test_forced_call_cut_by_the_limit_ends_with_length(
    standin: StandIn, backend: OllamaBackend
):
    lists(standin)
    says(standin, '{"name": "count", "parameters": {"n', reason="length")
    end = (await events_of(backend, chat(tools=(TOOL,), tool_choice="required")))[-1]
    assert isinstance(end, Finished)
    assert end.reason == "length"


@pytest.mark.parametrize("capability", ["tools", "completion"])
async def test_forced_call_tells_the_tools_in_words_where_the_template_shows_none(
    standin: StandIn, backend: OllamaBackend, capability: str
):
    lists(standin, capability)
    says(standin, '{"name": "count", "parameters": {"n": 1}}')
    await events_of(backend, chat(tools=(TOOL,), tool_choice="required"))
    sent = standin.bodies("/api/chat")[-1]
    assert ("tools" in sent) == (capability == "tools")
    assert ("These functions can be called" in sent["messages"][0]["content"]) != ("tools" in sent)


async def test_free_call_of_a_strict_tool_is_written_after_its_check(
    standin: StandIn, backend: OllamaBackend
):
    says(standin, "Well.", tool_calls=[call(n="one")])
    events: list[Event] = []
    with pytest.raises(GenerationError):
        await keep_events(backend, chat(tools=(STRICT_TOOL,)), events)
    assert [type(event) for event in events] == [Started, TextDelta]


# --- a call, or an answer of a format --------------------------------------------------------

CALL = '{"name": "count", "parameters": {"n": 1}}'
EITHER: dict[str, Any] = {"tools": (TOOL,), "response_format": STRICT}


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_tools_with_a_format_may_be_called(
    standin: StandIn, backend: OllamaBackend, size: int
):
    lists(standin)
    says(standin, *[CALL[at : at + size] for at in range(0, len(CALL), size)])
    events = await events_of(backend, chat(**EITHER))
    assert not text_of(events)
    assert [e.name for e in events if isinstance(e, ToolCallStarted)] == ["count"]
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(arguments) == {"n": 1}
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("text", ['{"n": 12}', ' {"name": "count", "n": 3}', '{"n":1,"name":"x"}'])
async def test_tools_with_a_format_may_be_left_alone(
    standin: StandIn, backend: OllamaBackend, text: str, size: int
):
    lists(standin)
    says(standin, *[text[at : at + size] for at in range(0, len(text), size)])
    events = await events_of(backend, chat(**EITHER))
    assert text_of(events) == text
    assert not any(isinstance(e, ToolCallStarted) for e in events)
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == "stop"


async def test_beginning_of_either_that_is_cut_by_the_limit_is_text(
    standin: StandIn, backend: OllamaBackend
):
    lists(standin)
    says(standin, '{"na', reason="length")
    events = await events_of(backend, chat(**EITHER))
    assert text_of(events) == '{"na'


async def test_answer_of_another_format_beside_tools_is_an_error(
    standin: StandIn, backend: OllamaBackend
):
    lists(standin)
    says(standin, '{"n": "one"}')
    with pytest.raises(GenerationError, match="is not the JSON"):
        await events_of(backend, chat(**EITHER))


async def test_tools_with_a_format_are_described_where_the_template_shows_none(
    standin: StandIn, backend: OllamaBackend
):
    lists(standin, "completion")
    says(standin, CALL)
    await events_of(backend, chat(**EITHER))
    sent = standin.bodies("/api/chat")[-1]
    assert "tools" not in sent
    assert "If one of them helps, answer with nothing but" in sent["messages"][0]["content"]


FORCED: dict[str, Any] = {"tools": (TOOL,), "tool_choice": "required"}


@pytest.mark.parametrize("wanted", [STRICT, LOOSE, JSONObject()])
async def test_forced_call_needs_no_answer_of_the_format(
    standin: StandIn, backend: OllamaBackend, wanted: JSONObject | JSONSchema
):
    lists(standin)
    says(standin, CALL)
    *events, end = await events_of(backend, chat(**FORCED, response_format=wanted))
    assert [e.name for e in events if isinstance(e, ToolCallStarted)] == ["count"]
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"


async def test_stop_strings_are_not_searched_for_in_a_forced_call(
    standin: StandIn, backend: OllamaBackend
):
    lists(standin)
    says(standin, CALL)
    *events, end = await events_of(backend, chat(**FORCED, stop=('"', "\n")))
    assert standin.bodies("/api/chat")[-1]["options"]["stop"] == []
    assert [e.name for e in events if isinstance(e, ToolCallStarted)] == ["count"]
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"


# --- bounds that are checked, not enforced ---------------------------------------------------

HALF = {"type": "object", "properties": {"x": {"type": "number", "maximum": 0.5}}}
BOUNDED = JSONSchema(HALF, strict=True)
FITS, BREAKS = '{"x": 0.25}', '{"x": 0.75}'


def says_in_turn(standin: StandIn, *texts: str) -> None:
    """One answer after another."""
    answers = [
        says_lines(
            {"message": {"content": text[:5]}, "done": False},
            {"message": {"content": text[5:]}, "done": False},
            {"message": {"content": ""}, "done": True, "done_reason": "stop"},
        )
        for text in texts
    ]

    async def script(reply: Reply) -> None:
        await answers.pop(0)(reply)

    standin.says("/api/chat", script)


@pytest.mark.parametrize("broken", [0, 1, 3])
async def test_answer_that_breaks_a_bound_is_tried_again_with_the_next_seed(
    standin: StandIn, backend: OllamaBackend, broken: int
):
    says_in_turn(standin, *[BREAKS] * broken, FITS)
    request = chat(response_format=BOUNDED, sampling=Sampling(seed=7))
    events = await events_of(backend, request)
    assert text_of(events) == FITS
    assert [type(event) for event in events] == [Started, TextDelta, TextDelta, Finished]
    seeds = [body["options"]["seed"] for body in standin.bodies("/api/chat")]
    assert seeds == [7 + at for at in range(broken + 1)]
    assert standin.bodies("/api/chat")[0]["format"]["properties"]["x"] == {"type": "number"}


@pytest.mark.parametrize(
    ("sampling", "attempts"), [(Sampling(), 4), (Sampling(seed=1), 4), (Sampling(temperature=0), 1)]
)
async def test_no_answer_that_breaks_a_bound_is_written(
    standin: StandIn, backend: OllamaBackend, sampling: Sampling, attempts: int
):
    says_in_turn(standin, *[BREAKS] * 5)
    events: list[Event] = []
    with pytest.raises(GenerationError, match="strict schema") as caught:
        await keep_events(backend, chat(response_format=BOUNDED, sampling=sampling), events)
    assert not events
    assert caught.value.lasting
    assert len(standin.bodies("/api/chat")) == attempts


async def test_other_errors_are_not_tried_again(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", says_lines({"error": "got exception: bad luck"}))
    with pytest.raises(GenerationError, match="failed on this prompt"):
        await events_of(backend, chat(response_format=BOUNDED))
    assert len(standin.bodies("/api/chat")) == 1


async def test_forced_call_of_a_strict_tool_that_breaks_a_bound_is_tried_again(
    standin: StandIn, backend: OllamaBackend
):
    lists(standin)
    texts = [f'{{"name": "half", "parameters": {arguments}}}' for arguments in (BREAKS, FITS)]
    says_in_turn(standin, *texts)
    tool = Tool("half", None, HALF, strict=True)
    events = await events_of(backend, chat(tools=(tool,), tool_choice="required"))
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(arguments) == {"x": 0.25}


@pytest.mark.parametrize(
    ("form", "tries"),
    [
        (Regex("[0-9]+"), "grammar"),
        (Lark("start: /[0-9]+/"), "grammar"),
        (Lark('start: %json {"type": "integer"}'), "chat"),
    ],
)
async def test_free_call_with_a_text_of_another_format_is_generated_anew(
    standin: StandIn, backend: OllamaBackend, form: Regex | Lark, tries: str
):
    """Under a grammar where there is one for the format, else as before."""
    lists(standin)
    calls = {"tool_calls": [{"function": {"name": "say", "arguments": {"input": "one"}}}]}
    right = {"tool_calls": [{"function": {"name": "say", "arguments": {"input": "1"}}}]}
    begun = '{"name": "say", "parameters": {"input": "1"}}'
    second = {"content": begun} if tries == "grammar" else right
    ends = iter([calls, second])

    async def script(reply: Reply) -> None:
        end = {"done": True, "done_reason": "stop"}
        await says_lines({"message": {"content": "", **next(ends)}, "done": False}, end)(reply)

    standin.says("/api/chat", script)
    tool = Tool("say", parameters=TEXT, input_format=form)
    events = await events_of(backend, chat(tools=(tool,)))
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(arguments) == {"input": "1"}
    formats = ["format" in body for body in standin.bodies("/api/chat")]
    assert formats == [False, tries == "grammar"]


async def test_what_a_loose_schema_leaves_out_is_told_at_the_start(
    standin: StandIn, backend: OllamaBackend
):
    says(standin, BREAKS)
    started, *_ = await events_of(backend, chat(response_format=JSONSchema(HALF)))
    assert isinstance(started, Started)
    assert started.ignored == ("response_format.json_schema.schema.properties.x.maximum",)


# --- raw text --------------------------------------------------------------------------------


async def test_echo_comes_after_started_and_before_the_answer(
    standin: StandIn, backend: OllamaBackend
):
    says(standin, " two")
    events = await events_of(backend, chat(prompt="one", echo=True))
    assert events[:3] == [Started(4096, prompt_tokens=14), TextDelta("one"), TextDelta(" two")]


async def test_suffix_is_filled_in_by_the_models_own_template(
    standin: StandIn, backend: OllamaBackend
):
    standin.replays("generate-suffix")
    prompt, suffix = "def add(a, b):\n    return ", "\n"
    events = await events_of(backend, chat(prompt=prompt, suffix=suffix, max_tokens=12))
    assert text_of(events) == "\n\ndef add_fim_middle(a,"
    sent = standin.bodies("/api/generate")[0]
    assert (sent["prompt"], sent["suffix"], sent["raw"]) == (prompt, suffix, False)
