"""JSON -> GenerationRequest, without a server."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import (
    GenerationRequest,
    ImagePart,
    JSONObject,
    JSONSchema,
    Lark,
    Message,
    NamedTool,
    Regex,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)
from proxy.endpoints.generation_fields import OLLAMA_ONLY
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from proxy.endpoints.openai.chat_completions.translate import to_generation_request, to_param
from proxy.http.body import decode

ROOT = Path(__file__).parents[4]
RECORDED = ROOT / "tests/data/openai-chat-completion-fields.json"
EXTENSIONS = {
    *OLLAMA_ONLY,
    "backend",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_penalty",
    "num_predict",
    "n_predict",
    "repeat_last_n",
    "format",
    "json_schema",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "num_ctx",
    "keep_alive",
    "ttl",
    "options",
    "reasoning",
    "think",
    "enable_thinking",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
}

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER_TOOL = {"type": "function", "function": {"name": "g"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def allowed(name: str, mode: str = "auto") -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": name}}
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tool]}}


def translate(messages: list[Any] | None = None, **given: Any) -> GenerationRequest:
    body = {"model": "m", "messages": messages or [{"role": "user", "content": "Hi"}], **given}
    return to_generation_request(decode(json.dumps(body).encode(), ChatCompletionRequest))


def test_the_whole_request_is_translated():
    request = translate(
        [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Hi"}],
        temperature=0,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=7,
        frequency_penalty=1,
        presence_penalty=-1,
        logit_bias={"5": -100},
        max_tokens=9,
        stop=["a", "b"],
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        response_format={"type": "json_object"},
        reasoning_effort="low",
        logprobs=True,
        top_logprobs=3,
    )
    assert request == GenerationRequest(
        model="m",
        prompt=(
            Message(role="system", content=(TextPart("Be terse."),)),
            Message(role="user", content=(TextPart("Hi"),)),
        ),
        sampling=Sampling(
            temperature=0,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            seed=7,
            frequency_penalty=1,
            presence_penalty=-1,
            logit_bias={5: -100},
        ),
        max_tokens=9,
        stop=("a", "b"),
        tools=(Tool("f", None, {"type": "object"}),),
        tool_choice="required",
        parallel_tool_calls=False,
        response_format=JSONObject(),
        reasoning_effort="low",
        top_logprobs=3,
    )


def test_a_bare_request_leaves_everything_to_the_model():
    assert translate() == GenerationRequest(
        model="m", prompt=(Message(role="user", content=(TextPart("Hi"),)),)
    )


def test_null_is_absent_in_every_field():
    optional = [f.encode_name for f in fields(ChatCompletionRequest) if not f.required]
    assert translate(**dict.fromkeys(optional)) == translate()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": []}, {"stop": ()}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"logprobs": True}, {"top_logprobs": 0}),
        ({"logprobs": False}, {"top_logprobs": None}),
        ({"response_format": {"type": "text"}}, {"response_format": None}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
                }
            },
            {"response_format": JSONSchema({"type": "object"}, True)},
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
            },
            {"tool_choice": NamedTool("f")},
        ),
        ({"tool_choice": "auto"}, {"tool_choice": "auto"}),
        ({"tools": [], "tool_choice": "none"}, {"tools": (), "tool_choice": "none"}),
        ({"n": 2}, {"n": 2}),
        ({"num_ctx": 512}, {"num_ctx": 512}),
        ({"keep_alive": "1h30m"}, {"keep_alive": 5400}),
        ({"keep_alive": -1}, {"keep_alive": -1}),
        ({"keep_alive": "0"}, {"keep_alive": 0}),
        ({"keep_alive": "-1m"}, {"keep_alive": -60}),
        ({"keep_alive": "1.5s"}, {"keep_alive": 1.5}),
        ({"ttl": 300, "keep_alive": "5m"}, {"keep_alive": 300}),
        ({"repeat_penalty": 1.1}, {"sampling": Sampling(repetition_penalty=1.1)}),
        ({"num_predict": 7}, {"max_tokens": 7}),
        ({"num_predict": 7, "max_tokens": 7}, {"max_tokens": 7}),
        ({"n_predict": 7}, {"max_tokens": 7}),
        ({"num_predict": -1}, {"max_tokens": None}),
        ({"repeat_last_n": -1}, {"sampling": Sampling(repeat_last_n=-1)}),
        ({"options": {"repeat_last_n": 64}}, {"sampling": Sampling(repeat_last_n=64)}),
        ({"typical_p": 0.5}, {"options": {"typical_p": 0.5}}),
        (
            {"options": {"num_ctx": 512, "stop": ["x"], "num_predict": 7, "num_gpu": 1}},
            {"num_ctx": 512, "stop": ("x",), "max_tokens": 7, "options": {"num_gpu": 1}},
        ),
        ({"options": {"num_predict": -1}}, {"max_tokens": None, "options": {}}),
        ({"options": {"min_p": 0.1}, "min_p": 0.1}, {"sampling": Sampling(min_p=0.1)}),
        ({"guided_regex": "a+"}, {"response_format": Regex("a+")}),
        ({"guided_grammar": "start: A"}, {"response_format": Lark("start: A")}),
        ({"guided_json": {"type": "object"}}, {"response_format": JSONSchema({"type": "object"})}),
        ({"guided_json": '{"a": 1}'}, {"response_format": JSONSchema({"a": 1})}),
        ({"json_schema": {"a": 1}}, {"response_format": JSONSchema({"a": 1})}),
        ({"guided_choice": ["yes", "C++ (a)"]}, {"response_format": Regex(r"yes|C\+\+ \(a\)")}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"response_format": Regex("a|b")}),
        ({"structured_outputs": {"regex": "a+"}}, {"response_format": Regex("a+")}),
        ({"structured_outputs": {"grammar": "start: A"}}, {"response_format": Lark("start: A")}),
        ({"structured_outputs": {"json": {"a": 1}}}, {"response_format": JSONSchema({"a": 1})}),
        ({"structured_outputs": {"json_object": True}}, {"response_format": JSONObject()}),
        ({"structured_outputs": {"json_object": False}}, {"response_format": None}),
        ({"reasoning_effort": "max"}, {"reasoning_effort": "xhigh"}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"think": True}, {"reasoning_effort": "medium"}),
        ({"think": "high"}, {"reasoning_effort": "high"}),
        ({"enable_thinking": False}, {"reasoning_effort": "none"}),
        ({"think": False, "reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"reasoning_effort": "none"},
        ),
        (
            {"tools": [TOOL, OTHER_TOOL], "tool_choice": allowed("g", "required")},
            {"tools": (Tool("g"),), "tool_choice": "required"},
        ),
        (
            {"functions": [{"name": "g"}], "function_call": {"name": "g"}},
            {"tools": (Tool("g"),), "tool_choice": NamedTool("g")},
        ),
        ({"functions": [{"name": "g"}], "function_call": "none"}, {"tool_choice": "none"}),
        ({"n": 1, "verbosity": "medium", "modalities": ["text"]}, {}),
    ],
    ids=str,
)
def test_field_when_in_another_form(given: dict[str, Any], part: dict[str, Any]):
    request = translate(**given)
    assert {name: getattr(request, name) for name in part} == part


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (
            {"role": "developer", "content": "Be terse."},
            Message(role="system", content=(TextPart("Be terse."),)),
        ),
        (
            {"role": "user", "name": "Bo", "content": [{"type": "text", "text": "a"}]},
            Message(role="user", name="Bo", content=(TextPart("a"),)),
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See"},
                    {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
                ],
            },
            Message(role="user", content=(TextPart("See"), ImagePart("data:x"))),
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "data:x"}]},
            Message(role="user", content=(ImagePart("data:x"),)),
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:x", "detail": "original"}}
                ],
            },
            Message(role="user", content=(ImagePart("data:x"),)),
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            Message(role="assistant", tool_calls=(ToolCall("c1", "f", "{}"),)),
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            Message(role="assistant", content=(TextPart("No."),)),
        ),
        (
            {"role": "assistant", "content": None, "refusal": "No."},
            Message(role="assistant", content=(TextPart("No."),)),
        ),
        (
            {"role": "assistant", "content": "4", "reasoning_content": "2+2"},
            Message(role="assistant", content=(TextPart("4"),), reasoning="2+2"),
        ),
        (
            {"role": "assistant", "content": "4", "reasoning": "2+2"},
            Message(role="assistant", content=(TextPart("4"),), reasoning="2+2"),
        ),
        (
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            Message(role="assistant", tool_calls=(ToolCall("call_f", "f", "{}"),)),
        ),
        (
            {"role": "function", "name": "f", "content": "42"},
            Message(role="tool", tool_call_id="call_f", name="f", content=(TextPart("42"),)),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            Message(role="tool", tool_call_id="c1", content=(TextPart("42"),)),
        ),
    ],
    ids=lambda value: value.get("role") if isinstance(value, dict) else "",
)
def test_message_of_each_shape(wire: dict[str, Any], expected: Message):
    assert translate([wire]).prompt == (expected,)


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}
                ]
            },
            "messages[0].content[0].input_audio",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            "messages[0].content[0].file",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "audio": {"id": "a"}}]},
            "messages[0].audio",
        ),
        ({"mirostat": 1}, "mirostat"),
        ({"options": {"mirostat": 2, "mirostat_tau": 5.0}}, "options.mirostat"),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z"),
    ],
    ids=str,
)
def test_what_nobody_can_honour_is_refused_by_name(given: dict[str, Any], param: str):
    with pytest.raises(UnsupportedParameterError) as caught:
        translate(**given)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [CALL, {"id": "c", "type": "custom", "custom": {}}],
                    }
                ]
            },
            "messages[0].tool_calls[1].custom.name",
        ),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "x"}]}]},
            "messages[0].content[0].type",
        ),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        (
            {"messages": [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]},
            "messages[0].function_call.arguments",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "tool_choice.allowed_tools.mode",
        ),
        ({"tools": [TOOL], "tool_choice": allowed("g")}, "tool_choice"),
        ({"tools": [TOOL], "functions": [{"name": "f"}]}, "functions"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
        ({"keep_alive": "5 minutes"}, "keep_alive"),
        ({"keep_alive": "5m", "ttl": 5}, "ttl"),
        ({"temperature": 1, "options": {"temperature": 0}}, "options.temperature"),
        ({"max_completion_tokens": 5, "options": {"num_predict": 6}}, "options.num_predict"),
        ({"options": {"num_predict": -3}}, "options.num_predict"),
        ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"options": {"num_ctx": "big"}}, "options.num_ctx"),
        ({"num_gpu": 1, "options": {"num_gpu": 2}}, "options.num_gpu"),
        ({"num_gpu": "all"}, "num_gpu"),
        ({"options": {"num_thread": -1}}, "options.num_thread"),
        ({"typical_p": 2}, "typical_p"),
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty"),
        ({"num_predict": 5, "max_completion_tokens": 6}, "num_predict"),
        ({"num_predict": 5, "options": {"num_predict": 6}}, "options.num_predict"),
        ({"num_predict": 0}, "num_predict"),
        ({"n_predict": 5, "num_predict": 6}, "num_predict"),
        ({"json_schema": {}, "guided_json": {}}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        (
            {"chat_template_kwargs": {"enable_thinking": 1}},
            "chat_template_kwargs.enable_thinking",
        ),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -3}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_its_path(given: dict[str, Any], param: str):
    with pytest.raises(InvalidRequestError) as caught:
        translate(**given)
    assert not isinstance(caught.value, UnsupportedParameterError)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "field",
    [
        {"user": "u"},
        {"metadata": {"chat_id": "c"}},
        {"store": True},
        {"service_tier": "flex"},
        {"safety_identifier": "s"},
        {"prompt_cache_key": "k"},
        {"prompt_cache_retention": "24h"},
        {"prompt_cache_options": {"mode": "x"}},
        {"prediction": {"type": "content", "content": "x"}},
        {"top_logprobs": 0},
        {"logprobs": False, "top_logprobs": 0},
    ],
    ids=str,
)
def test_field_without_effect_is_accepted(field: dict[str, Any]):
    assert translate(**field) == translate()


@pytest.mark.parametrize(
    ("given", "feature", "param"),
    [
        ({"options": {"num_ctx": 9}}, "num_ctx", "options.num_ctx"),
        ({"options": {"num_predict": 9}}, "max_tokens", "options.num_predict"),
        ({"max_completion_tokens": 9}, "max_tokens", "max_completion_tokens"),
        ({"options": {"num_ctx": 9, "mirostat": 1}}, "options", "options.mirostat"),
        ({"mirostat": 1}, "options", "mirostat"),
        ({"mirostat": 1}, "options.mirostat", "mirostat"),
        ({"options": {"mirostat": 1}}, "options.mirostat", "options.mirostat"),
        ({"ttl": 1}, "keep_alive", "ttl"),
        ({"repeat_penalty": 2}, "repetition_penalty", "repeat_penalty"),
        ({"num_predict": 9}, "max_tokens", "num_predict"),
        ({"n_predict": 9}, "max_tokens", "n_predict"),
        ({"guided_json": {}}, "response_format", "guided_json"),
        ({"json_schema": {}}, "response_format.json_schema.schema.not", "json_schema.not"),
        ({"functions": []}, "tools", "functions"),
        ({"think": True}, "reasoning_effort", "think"),
        ({}, "prompt", "messages"),
    ],
    ids=str,
)
def test_a_refusal_names_the_field_that_was_sent(given: dict[str, Any], feature: str, param: str):
    body = {"model": "m", "messages": [USER], **given}
    assert to_param(feature, decode(json.dumps(body).encode(), ChatCompletionRequest)) == param


def test_the_struct_has_exactly_the_recorded_fields():
    known = {field.encode_name for field in fields(ChatCompletionRequest)}
    assert known - EXTENSIONS == set(msgspec.json.decode(RECORDED.read_bytes(), type=list[str]))


def test_the_recorded_fields_are_openais(openai_components: dict[str, Any]):
    assert _properties(openai_components["schemas"], "CreateChatCompletionRequest") == set(
        json.loads(RECORDED.read_bytes())
    )


def _properties(schemas: dict[str, Any], name: str) -> set[str]:
    own = set(schemas[name].get("properties", {}))
    for part in schemas[name].get("allOf", []):
        own |= set(part.get("properties", {}))
        if "$ref" in part:
            own |= _properties(schemas, part["$ref"].rpartition("/")[2])
    return own


IMPOSSIBLE_PARAMETERS: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": ["array", "null"]},
    {"type": 7},
    {"type": None},
    {"enum": 7},
    {"enum": []},
    {"type": "object", "properties": {"a": {"anyOf": [{"enum": []}]}}},
]


@pytest.mark.parametrize("parameters", IMPOSSIBLE_PARAMETERS)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "g"}}])
def test_forced_call_without_possible_arguments_is_refused_with_its_path(
    parameters: dict[str, Any], choice: Any
):
    tool = {"type": "function", "function": {"name": "g", "parameters": parameters}}
    with pytest.raises(InvalidRequestError) as caught:
        translate(tools=[TOOL, tool], tool_choice=choice)
    assert caught.value.param == "tools[1].function.parameters"
    for harmless in ("auto", "none", {"type": "function", "function": {"name": "f"}}):
        assert len(translate(tools=[TOOL, tool], tool_choice=harmless).tools) == 2


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"type": ["object", "null"]},
        {"properties": {"a": {"const": {"enum": []}}, "enum": {"enum": [1]}}},
    ],
)
def test_forced_call_with_possible_arguments_is_taken(parameters: dict[str, Any]):
    tool = {"type": "function", "function": {"name": "g", "parameters": parameters}}
    assert translate(tools=[tool], tool_choice="required").tools[0].parameters == parameters


def test_continuing_is_asked_for_with_or_without_vllms_second_field():
    assert translate(continue_final_message=True).continue_final_message
    assert translate(
        continue_final_message=True, add_generation_prompt=False
    ).continue_final_message
    assert not translate(continue_final_message=False).continue_final_message
    assert not translate(add_generation_prompt=True).continue_final_message
