"""Forced calls: the request to Ollama, and the events of the answer."""

import json
from typing import Any

import msgspec
import pytest

from adapters.errors import GenerationError, InvalidRequestError
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.ollama.translate.request import to_body
from adapters.ollama.translate.tool_choice import ForcedCallReader
from adapters.request import (
    GenerationRequest,
    Lark,
    Message,
    NamedTool,
    Regex,
    TextPart,
    Tool,
    ToolCall,
)

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NOTHING: dict[str, Any] = {"const": {}}
WEATHER = Tool("get_weather", "Tells it", CITY)
CLOCK = Tool("clock")
QUESTION = Message(role="user", content=(TextPart("Weather in Paris?"),))
USAGE = Usage(prompt_tokens=3, completion_tokens=2)
DONE = Finished("stop", USAGE)
CALL = '{"name": "get_weather", "parameters": {"city": "Pa{r\\"}is"} }'


def body_of(shows_tools: bool = True, **fields: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": "m", "prompt": (QUESTION,), "tools": (WEATHER, CLOCK)}
    asked |= {"tool_choice": "required"} | fields
    request = GenerationRequest(**asked)
    return json.loads(msgspec.json.encode(to_body(request, shows_tools)))


def events_of(*said: Event, may_stop: bool = False) -> list[Event]:
    call, events = ForcedCallReader((WEATHER,), may_stop), list[Event]()
    call.emit = events.append
    for event in said:
        if isinstance(event, Finished):
            events.append(call.finish(event))
        else:
            call.take(event)
    return events


def branch(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "parameters": parameters},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def test_required_asks_for_a_call_of_one_of_the_tools():
    body = body_of()
    assert body["format"] == {"anyOf": [branch("get_weather", CITY), branch("clock", NOTHING)]}
    assert [tool["function"]["name"] for tool in body["tools"]] == ["get_weather", "clock"]


def test_named_asks_for_that_call_and_tells_of_no_other():
    body = body_of(tool_choice=NamedTool("get_weather"))
    assert body["format"] == branch("get_weather", CITY)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["get_weather"]


@pytest.mark.parametrize("fields", [{"tool_choice": NamedTool("unknown")}, {"tools": ()}])
def test_call_of_a_tool_that_is_not_given_is_refused(fields: dict[str, Any]):
    with pytest.raises(InvalidRequestError) as caught:
        body_of(**fields)
    assert caught.value.param == "tools"


def test_references_of_several_tools_are_definitions_of_their_own():
    tree = {
        "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}},
        "properties": {"a": {"$ref": "#/$defs/Node"}, "b": {"$ref": "#/properties/a"}},
    }
    schema = body_of(tools=(Tool("shrink", None, tree), Tool("grow", None, tree)))["format"]
    definition = {"type": "object", "properties": {"next": {"$ref": "#/$defs/d0"}}}
    other = {"type": "object", "properties": {"next": {"$ref": "#/$defs/d1"}}}
    assert schema["$defs"] == {"d0": definition, "d1": other}
    assert schema["anyOf"][1]["properties"]["parameters"] == {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/d1"}, "b": {"$ref": "#/$defs/d1"}},
    }


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"type": "object", "enum": []}])
def test_forced_call_without_possible_arguments_is_refused(parameters: dict[str, Any]):
    with pytest.raises(InvalidRequestError) as caught:
        body_of(tools=(CLOCK, Tool("f", None, parameters)))
    assert caught.value.param == "tools[1].function.parameters"


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (Regex("yes|no"), "^(yes|no)$"),
        (Regex(r"(?i)yes"), None),
        (Lark('start: "yes" | "no"'), "^(yes|no)$"),
        (Lark('start: "(" start ")"'), None),
        (None, None),
    ],
)
def test_text_of_a_forced_call_is_held_to_its_pattern(
    form: Regex | Lark | None, pattern: str | None
):
    parameters = {"type": "object", "properties": {"input": {"type": "string"}}}
    tool = Tool("say", parameters=parameters | {"required": ["input"]}, input_format=form)
    schema = body_of(tools=(tool,))["format"]
    text = schema["properties"]["parameters"]["properties"]["input"]
    assert text == {"type": "string"} | ({"pattern": pattern} if pattern else {})


def test_tools_are_described_in_a_message_when_the_template_shows_none():
    body = body_of(shows_tools=False, tools=(WEATHER,))
    assert "tools" not in body
    assert body["messages"] == [
        {
            "role": "user",
            "content": "These functions can be called:\n"
            '{"name": "get_weather", "description": "Tells it", "parameters": {"type": "object", '
            '"properties": {"city": {"type": "string"}}, "required": ["city"]}}\n'
            "Answer now with a call of one of them.\n"
            "Weather in Paris?",
        }
    ]


def test_tools_are_described_before_a_message_that_is_continued():
    begun = Message(role="assistant", content=(TextPart("It is"),))
    said = body_of(shows_tools=False, tools=(WEATHER,), prompt=(begun,))["messages"]
    assert [message["role"] for message in said[:2]] == ["user", "assistant"]


def test_calls_and_results_are_described_when_the_template_shows_none():
    called = Message(role="assistant", tool_calls=(ToolCall("c", "clock", '{"zone": 1}'),))
    result = Message(role="tool", tool_call_id="c", content=(TextPart("12:00"),))
    said = body_of(shows_tools=False, prompt=(QUESTION, called, result))["messages"]
    assert said[1] == {
        "role": "assistant",
        "content": '{"name": "clock", "parameters": {"zone": 1}}',
    }
    assert said[2]["role"] == "user"
    assert said[2]["content"] == "The function clock gave: 12:00"


def test_result_without_its_call_is_described_without_a_name():
    result = Message(role="tool", tool_call_id="c", content=(TextPart("12:00"),))
    said = body_of(shows_tools=False, prompt=(QUESTION, result))["messages"]
    assert said[1]["content"] == "A function gave: 12:00"


EMPTY = {"type": "object", "properties": {}}


@pytest.mark.parametrize("parameters", [None, {}, EMPTY, EMPTY | {"additionalProperties": False}])
def test_forced_call_of_a_tool_without_parameters_has_no_arguments(parameters: Any):
    schema = body_of(tools=(Tool("clock", None, parameters),))["format"]
    assert schema == branch("clock", NOTHING)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_text_becomes_a_call_however_it_is_cut(size: int):
    pieces = [TextDelta(CALL[at : at + size]) for at in range(0, len(CALL), size)]
    started, *deltas, end = events_of(*pieces, DONE)
    assert isinstance(started, ToolCallStarted)
    assert (started.index, started.name) == (0, "get_weather")
    assert started.id.startswith("call_")
    text = "".join(each.arguments for each in deltas if isinstance(each, ToolCallDelta))
    assert text == '{"city": "Pa{r\\"}is"}'
    assert end == Finished("tool_calls", USAGE)


def test_name_goes_out_before_the_arguments_are_there():
    (started,) = events_of(TextDelta('{"name": "get_weather"'))
    assert isinstance(started, ToolCallStarted)


def test_reasoning_passes_before_the_call():
    assert events_of(ReasoningDelta("Hm"))[0] == ReasoningDelta("Hm")


def test_call_cut_by_the_limit_keeps_what_arrived():
    events = events_of(TextDelta(CALL[:-6]), Finished("length", USAGE))
    assert events[1:] == [ToolCallDelta(0, '{"city": "Pa{r\\"}'), Finished("length", USAGE)]


def test_call_that_ollama_parsed_itself_passes():
    call = [ToolCallStarted(0, "call_1", "get_weather"), ToolCallDelta(0, '{"city":"Rome"}')]
    assert events_of(*call, DONE) == [*call, Finished("tool_calls", USAGE)]


def test_call_cut_by_a_stop_string_ends_as_it_does_elsewhere():
    assert events_of(TextDelta(CALL[:20]), DONE, may_stop=True)[-1] == DONE


@pytest.mark.parametrize(
    "text",
    ["", "I cannot.", '{"name": "other", "parameters": {}}', CALL[:-9], "x" * 1000],
)
def test_text_that_is_no_call_is_an_error(text: str):
    with pytest.raises(GenerationError):
        events_of(TextDelta(text), DONE)


def test_call_of_another_tool_by_ollamas_own_parser_is_an_error():
    with pytest.raises(GenerationError):
        events_of(ToolCallStarted(0, "call_1", "other"))
