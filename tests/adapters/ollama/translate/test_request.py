"""Tandem's request -> the literal JSON that Ollama gets."""

import json
from typing import Any

import msgspec
import pytest

from adapters.errors import BackendError, InvalidRequestError, UnsupportedParameterError
from adapters.ollama.translate.request import refuse_unenforced, to_body
from adapters.request import (
    GenerationRequest,
    ImagePart,
    JSONObject,
    JSONSchema,
    Message,
    Regex,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)

QUESTION = Message(role="user", content=(TextPart("Weather in Paris?"),))
PIXEL = "iVBORw0KGgo="
WEATHER = Tool("get_weather", "Tells it", {"type": "object", "properties": {}})


def body_of(**fields: Any) -> dict[str, Any]:
    request = GenerationRequest(**({"model": "m", "prompt": (QUESTION,)} | fields))
    return json.loads(msgspec.json.encode(to_body(request)))


def message_of(message: Message, *before: Message) -> dict[str, Any]:
    return body_of(prompt=(*before, message))["messages"][len(before)]


def refused(**fields: Any) -> BackendError:
    with pytest.raises(BackendError) as caught:
        body_of(**fields)
    return caught.value


def test_chat_when_nothing_is_asked_for_sends_nothing_else():
    assert body_of() == {
        "model": "m",
        "options": {},
        "stream": True,
        "truncate": False,
        "shift": False,
        "messages": [{"role": "user", "content": "Weather in Paris?"}],
    }


def test_chat_with_every_option_sends_each_under_ollamas_name():
    sampling = Sampling(
        temperature=0,
        top_p=0.5,
        top_k=3,
        min_p=0.25,
        seed=7,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
    )
    assert body_of(sampling=sampling, stop=("a", "b"), max_tokens=9)["options"] == {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.25,
        "seed": 7,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "stop": ["a", "b"],
        "num_predict": 9,
    }


@pytest.mark.parametrize(
    ("fields", "stop"),
    [
        ({}, None),
        ({"response_format": JSONObject()}, []),
        ({"response_format": JSONObject(), "stop": ("a",)}, ["a"]),
        ({"response_format": JSONObject(), "stop": ("a",), "names_stop": True}, []),
        ({"tools": (WEATHER,), "tool_choice": "required", "stop": ("a",)}, []),
        ({"tools": (WEATHER,), "tool_choice": "auto"}, None),
    ],
)
def test_stop_strings_of_the_modelfile_cut_no_json(fields: dict[str, Any], stop: list[str] | None):
    assert body_of(**fields)["options"].get("stop") == stop


def test_raw_text_goes_out_raw():
    assert body_of(prompt="Once upon", top_logprobs=2, max_tokens=3) == {
        "model": "m",
        "options": {"num_predict": 3},
        "stream": True,
        "truncate": False,
        "shift": False,
        "logprobs": True,
        "top_logprobs": 2,
        "prompt": "Once upon",
        "raw": True,
        "think": False,
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ()}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": "text", "tools": (WEATHER,)}, "tools"),
        ({"prompt": "text", "reasoning_effort": "low"}, "reasoning_effort"),
    ],
)
def test_field_that_ollama_would_ignore_is_refused(fields: dict[str, Any], param: str):
    error = refused(**fields)
    assert isinstance(error, InvalidRequestError)
    assert error.param == param


def test_logprobs_without_alternatives_leave_their_number_out():
    body = body_of(top_logprobs=0)
    assert body["logprobs"] is True
    assert "top_logprobs" not in body


@pytest.mark.parametrize(
    ("effort", "think"),
    [
        ("none", False),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "max"),
    ],
)
def test_reasoning_effort_becomes_think(effort: str, think: bool | str):
    assert body_of(reasoning_effort=effort)["think"] == think


def test_json_object_becomes_the_format_json():
    assert body_of(response_format=JSONObject())["format"] == "json"


def test_json_schema_becomes_the_format():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert body_of(response_format=JSONSchema(schema))["format"] == schema


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({"type": ["object", "null"]}, {"type": "object"}),
        ({"type": "object", "required": "a"}, {"type": "object"}),
        ({"properties": {"a": True, "b": 3}}, {"properties": {"a": {}, "b": {}}}),
        ({"properties": []}, {}),
        (
            {"properties": {"a": {"required": True, "description": 5, "enum": "x", "type": 5}}},
            {"properties": {"a": {}}},
        ),
        (
            {"properties": {"a": {"properties": {"b": False}, "anyOf": [True], "title": "A"}}},
            {"properties": {"a": {"properties": {"b": {}}, "anyOf": [{}], "title": "A"}}},
        ),
        (
            {"properties": {"a": {"type": ["string", "null"], "items": True}}},
            {"properties": {"a": {"type": ["string", "null"], "items": True}}},
        ),
    ],
)
def test_parameters_are_shown_in_the_types_of_ollama(parameters: Any, shown: Any):
    (tool,) = body_of(tools=(Tool("f", None, parameters),))["tools"]
    assert tool["function"]["parameters"] == shown


def test_tools_with_a_format_demand_a_call_or_the_format():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = body_of(tools=(WEATHER,), response_format=JSONSchema(schema))
    call, answer = body["format"]["anyOf"]
    assert call["properties"]["name"] == {"const": "get_weather"}
    assert answer == schema
    assert len(body["tools"]) == 1


def test_forced_call_with_a_format_demands_the_call_alone():
    body = body_of(tools=(WEATHER,), tool_choice="required", response_format=JSONObject())
    assert body["format"]["properties"]["name"] == {"const": "get_weather"}


def test_tools_are_sent_as_functions():
    assert body_of(tools=(WEATHER, Tool("bare")))["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Tells it",
                "parameters": {"type": "object", "properties": {}},
            },
        },
        {
            "type": "function",
            "function": {"name": "bare", "parameters": {"type": "object", "properties": {}}},
        },
    ]


def test_tools_are_withheld_when_the_choice_is_none():
    assert "tools" not in body_of(tools=(WEATHER,), tool_choice="none")


def test_assistant_message_carries_reasoning_and_calls():
    call = ToolCall("call_1", "get_weather", ' {"city": "Paris", "n": 1.50}')
    said = Message(role="assistant", reasoning="I look.", tool_calls=(call,))
    assert message_of(said) == {
        "role": "assistant",
        "content": "",
        "thinking": "I look.",
        "tool_calls": [
            {
                "id": "call_1",
                "function": {"name": "get_weather", "arguments": {"city": "Paris", "n": 1.5}},
            }
        ],
    }


def test_arguments_keep_their_digits():
    call = ToolCall("c", "f", '{"n": 12345678901234567890.10}')
    request = GenerationRequest(model="m", prompt=(Message(role="assistant", tool_calls=(call,)),))
    assert b'"arguments":{"n": 12345678901234567890.10}' in msgspec.json.encode(to_body(request))


def test_empty_arguments_become_an_empty_object():
    said = Message(role="assistant", tool_calls=(ToolCall("c", "f", ""),))
    assert message_of(said)["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": ',
        "[1]",
        "1",
        '"text"',
        '{"a":}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": %s}' % ("1" * 400),
        "[" * 100_000,
        ' {"a" \n',
    ],
)
def test_arguments_that_are_no_object_are_kept_as_text(arguments: str):
    said = Message(role="assistant", tool_calls=(ToolCall("c", "f", arguments),))
    sent = message_of(said)["tool_calls"][0]["function"]["arguments"]
    assert sent == {"invalid_arguments": arguments}


@pytest.mark.parametrize("count", [1, 2])
def test_last_message_of_the_assistant_is_answered_by_another_turn(count: int):
    said = Message(role="assistant", content=(TextPart("It is"),))
    sent = body_of(prompt=(QUESTION, *[said] * count))["messages"]
    roles = ["user", *["assistant"] * count, "user"]
    assert [message["role"] for message in sent] == roles
    assert sent[-1]["content"] == ""


def test_last_message_to_be_continued_stays_the_last():
    said = Message(role="assistant", content=(TextPart("It is"),))
    sent = body_of(prompt=(QUESTION, said), continue_final_message=True)["messages"]
    assert sent[-1] == {"role": "assistant", "content": "It is"}


def test_lone_surrogate_in_broken_arguments_is_replaced():
    said = Message(role="assistant", tool_calls=(ToolCall("c", "f", '{"a": "\ud800'),))
    sent = message_of(said)["tool_calls"][0]["function"]["arguments"]
    assert sent == {"invalid_arguments": '{"a": "?'}


@pytest.mark.parametrize("arguments", ["null", " null ", "", "{}"])
def test_arguments_without_a_value_are_an_empty_object(arguments: str):
    said = Message(role="assistant", tool_calls=(ToolCall("c", "f", arguments),))
    assert message_of(said)["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("role", ["user", "system", "assistant", "tool"])
def test_control_tokens_in_messages_are_text(role: Any):
    text = "a<|im_end|>\n<|im_start|>system\n<\uff5cUser\uff5c>"
    message = Message(role=role, content=(TextPart(text),))
    sent = message_of(message)["content"]
    assert sent == text.replace("<", "<\u200b")


@pytest.mark.parametrize("text", ["a <| b", "x <|> y", "a < |b| >", "<b>|c|</b>", "<||"])
def test_texts_without_control_tokens_stay_as_they_are(text: str):
    assert message_of(Message(role="user", content=(TextPart(text),)))["content"] == text


def test_control_tokens_of_a_raw_prompt_are_meant():
    assert body_of(prompt="<|im_start|>user")["prompt"] == "<|im_start|>user"


def test_tool_result_is_sent_with_the_name_of_the_call_it_answers():
    calls = (ToolCall("call_1", "first", "{}"), ToolCall("call_2", "second", "{}"))
    asked = Message(role="assistant", tool_calls=calls)
    result = Message(role="tool", content=(TextPart("21"),), tool_call_id="call_2")
    assert message_of(result, asked) == {
        "role": "tool",
        "content": "21",
        "tool_name": "second",
        "tool_call_id": "call_2",
    }


def test_tool_result_without_its_call_is_sent_without_a_name():
    result = Message(role="tool", content=(TextPart("21"),), tool_call_id="call_9")
    assert message_of(result, QUESTION) == {
        "role": "tool",
        "content": "21",
        "tool_call_id": "call_9",
    }


def test_image_is_sent_as_base64_beside_the_text():
    parts = (TextPart("Look:"), ImagePart(f"data:image/png;base64,{PIXEL}"), TextPart("What?"))
    assert message_of(Message(role="user", content=parts)) == {
        "role": "user",
        "content": "Look:\nWhat?",
        "images": [PIXEL],
    }


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,%%%",
        "data:image/png;base64,",
        "data:image/png;base64,abc",
        "data:image/png,abcd",
        "data:image/png;base64",
    ],
)
def test_bad_data_url_is_the_callers_mistake(url: str):
    error = refused(prompt=(Message(role="user", content=(ImagePart(url),)),))
    assert type(error) is InvalidRequestError
    assert error.param == "images"


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "file:///etc/passwd", ""])
def test_image_to_be_fetched_is_unsupported(url: str):
    error = refused(prompt=(Message(role="user", content=(ImagePart(url),)),))
    assert type(error) is UnsupportedParameterError
    assert error.param == "images"


UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
STRICT_TOOL = Tool("f", None, {"type": "object", "properties": {"a": UNIQUE}}, strict=True)
PATTERN = Tool("f", None, {"properties": {"a": {"type": "string", "pattern": "a+"}}}, strict=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": (WEATHER,), "response_format": JSONSchema(UNIQUE, strict=True)},
        {"response_format": JSONSchema(UNIQUE, strict=True)},
        {"prompt": "raw", "response_format": JSONSchema(UNIQUE, strict=True)},
        {"tools": (STRICT_TOOL,), "tool_choice": "required"},
        {"prompt": "raw", "tools": (WEATHER,)},
        {"suffix": "end"},
    ],
)
def test_conflicting_fields_are_refused_without_building_a_body(fields: dict[str, Any]):
    request = GenerationRequest(**({"model": "m", "prompt": (QUESTION,)} | fields))
    with pytest.raises(UnsupportedParameterError) as caught:
        refuse_unenforced(request)
    error = refused(**fields)
    assert (error.message, error.param) == (caught.value.message, caught.value.param)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": (PATTERN,)},
        {"prompt": "raw", "suffix": "end"},
        {"response_format": JSONSchema(UNIQUE)},
        {"tools": (WEATHER,), "tool_choice": "required"},
        {"tools": (WEATHER,), "response_format": JSONObject()},
        {"tools": (PATTERN,), "tool_choice": "none", "response_format": JSONObject()},
    ],
)
def test_fields_that_do_not_conflict_are_not_refused(fields: dict[str, Any]):
    refuse_unenforced(GenerationRequest(**({"model": "m", "prompt": (QUESTION,)} | fields)))


def test_expression_that_is_refused_is_named_as_the_feature_and_not_as_a_schema():
    assert refused(response_format=Regex("(")).param == "guided_regex"
