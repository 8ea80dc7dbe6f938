"""Answers, hints and refusals as clients of OpenAI and of local servers read them."""

import json
from typing import Any

import pytest
from fakes.scripted_backend import EVERYTHING, ScriptedBackend, chat, http_client

from adapters.backend import Model
from adapters.config import MLXConfig
from adapters.errors import ContextLengthError
from adapters.events import (
    Event,
    Finished,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.mlx.backend import MLXBackend
from adapters.ollama.backend import OllamaBackend
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Lark,
    NamedTool,
    Regex,
    TokenIds,
)

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PLAIN: dict[str, dict[str, Any]] = {CHAT: chat(), COMPLETIONS: {"model": "m", "prompt": "Hi"}}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}


async def answered(backend: ScriptedBackend, url: str = CHAT, **fields: Any) -> dict[str, Any]:
    async with http_client(backend) as client:
        response = await client.post(url, json=PLAIN[url] | fields)
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(backend: ScriptedBackend, url: str = CHAT, **fields: Any) -> list[Any]:
    async with http_client(backend) as client:
        response = await client.post(url, json=PLAIN[url] | {"stream": True} | fields)
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def refused(backend: ScriptedBackend, url: str = CHAT, **fields: Any) -> dict[str, Any]:
    async with http_client(backend) as client:
        response = await client.post(url, json=PLAIN.get(url, {}) | fields)
    assert (response.status_code, backend.requests, backend.embedded) == (400, [], [])
    return response.json()["error"]


async def translated(url: str = CHAT, **fields: Any) -> GenerationRequest:
    backend = ScriptedBackend()
    await answered(backend, url, **fields)
    return backend.requests[0]


# --- usage and annotations ---

COUNTS: list[tuple[Usage, int, int]] = [
    (Usage(prompt_tokens=3, completion_tokens=2), 0, 0),
    (Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1), 1, 0),
    (Usage(prompt_tokens=3, completion_tokens=2, reasoning_tokens=1), 0, 1),
]


@pytest.mark.parametrize(("usage", "cached", "reasoning"), COUNTS)
@pytest.mark.parametrize("url", PLAIN)
async def test_usage_always_has_its_details(url: str, usage: Usage, cached: int, reasoning: int):
    backend = ScriptedBackend((Started(), TextDelta("Hi"), Finished("stop", usage)))
    last = (await streamed(backend, url, **WITH_USAGE))[-1]
    for told in (await answered(backend, url), last):
        assert told["usage"] == {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }


async def test_chunks_of_completions_have_no_null_for_usage():
    *chunks, last = await streamed(ScriptedBackend(), COMPLETIONS, **WITH_USAGE)
    assert chunks
    assert [chunk for chunk in chunks if "usage" in chunk] == []
    assert last["usage"]["total_tokens"] == 5


async def test_message_has_annotations():
    (choice,) = (await answered(ScriptedBackend()))["choices"]
    assert choice["message"]["annotations"] == []


# --- context ---


def too_long(limit: int | None, tokens: int | None) -> ContextLengthError:
    error = ContextLengthError("The context of 'm' is too short.", param="messages")
    error.limit, error.prompt_tokens = limit, tokens
    return error


@pytest.mark.parametrize(
    ("limit", "tokens", "words"),
    [
        (
            4096,
            5000,
            "This model's maximum context length is 4096 tokens. "
            "However, your messages resulted in 5000 tokens. ",
        ),
        (4096, None, "This model's maximum context length is 4096 tokens. "),
        (None, None, ""),
    ],
)
@pytest.mark.parametrize("url", [*PLAIN, "/api/chat", "/v1/embeddings"])
async def test_context_error_has_the_words_that_clients_look_for(
    url: str, limit: int | None, tokens: int | None, words: str
):
    backend = ScriptedBackend((too_long(limit, tokens),))
    body = PLAIN.get(url) or (chat() if url == "/api/chat" else {"model": "m", "input": "Hi"})
    async with http_client(backend) as client:
        response = await client.post(url, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    if isinstance(error, dict):
        assert error["code"] == "context_length_exceeded"
        error = error["message"]
    assert error == f"{words}The context of 'm' is too short."


# --- hints without effect ---


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"verbosity": "low"}, "verbosity"),
        ({"verbosity": "terse"}, "verbosity"),
        ({"verbosity": "medium"}, None),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"prompt_cache_options": {}}, "prompt_cache_options"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"service_tier": "auto", "store": False}, None),
        ({"user": "x", "metadata": {"a": "b"}, "safety_identifier": "x"}, None),
        ({"verbosity": "low", "foo": 1}, "foo, verbosity"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_hint_without_effect_is_named(
    fields: dict[str, Any], ignored: str | None, stream: bool
):
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(CHAT, json=chat(stream=stream, **fields))
    assert response.status_code == 200
    assert response.headers.get("x-tandem-ignored") == ignored


# --- token ids to embeddings ---


@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]]])
@pytest.mark.parametrize("engine", [MLXBackend, OllamaBackend])
async def test_token_ids_to_embed_are_refused_with_the_setting_of_the_client(
    ids: list[Any], engine: type[MLXBackend] | type[OllamaBackend]
):
    backend = ScriptedBackend(kind=engine.kind, honours=engine.honours)
    error = await refused(backend, "/v1/embeddings", model="m", input=ids)
    assert (error["param"], error["code"]) == ("input", "unsupported_parameter")
    assert "check_embedding_ctx_length=False" in error["message"]
    assert "`embedding_token_ids: true`" in error["message"]


async def test_mlx_takes_token_ids_to_embed_where_its_settings_say_so():
    backend = MLXBackend(MLXConfig(embedding_token_ids=True, embedded="never"))
    try:
        taking = ScriptedBackend(kind="mlx", honours=backend.honours)
        async with http_client(taking) as client:
            body = {"model": "m", "input": [1, 2]}
            assert (await client.post("/v1/embeddings", json=body)).status_code == 200
    finally:
        await backend.aclose()
    assert taking.embedded[0].inputs == (TokenIds((1, 2)),)


async def test_prompt_of_token_ids_needs_no_setting():
    backend = ScriptedBackend(kind="mlx", honours=MLXBackend.honours)
    await answered(backend, COMPLETIONS, prompt=[1, 2])
    assert backend.requests[0].prompt == TokenIds((1, 2))


# --- hints of refusals ---


async def test_refusal_blames_the_model_where_the_engine_could():
    models = (Model(name="m", lacks=frozenset({"tools"})),)
    backend = ScriptedBackend(kind="ollama", models=models, honours=OllamaBackend.honours)
    error = await refused(backend, tools=[tool("f")])
    assert error["message"] == (
        "'m' does not support tools on ollama. This model lacks it; another model may have it."
    )


async def test_refusal_names_the_engine_that_could():
    backend = ScriptedBackend(kind="ollama", honours=OllamaBackend.honours)
    error = await refused(backend, logit_bias={"1": 1})
    assert error["message"].endswith("on ollama. A model on mlx could honour it.")


# --- shapes ---


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, JSONSchema(SCHEMA)),
        ({"response_format": {"type": "json_object", "schema": None}}, JSONObject()),
        ({"response_format": {"type": "json_object"}}, JSONObject()),
        ({"format": "json"}, JSONObject()),
        ({"format": SCHEMA}, JSONSchema(SCHEMA)),
        ({"format": ""}, None),
        ({"format": None}, None),
        ({"format": "", "response_format": {"type": "json_object"}}, JSONObject()),
    ],
    ids=str,
)
async def test_shape_by_the_names_of_local_servers(fields: dict[str, Any], shape: object):
    request = await translated(**fields)
    assert request.response_format == shape


async def test_format_shapes_completions_too():
    assert (await translated(COMPLETIONS, format=SCHEMA)).response_format == JSONSchema(SCHEMA)


@pytest.mark.parametrize("other", ["response_format", "guided_json"])
async def test_format_beside_another_shape_is_refused(other: str):
    value: Any = SCHEMA if other == "guided_json" else {"type": "json_object"}
    error = await refused(ScriptedBackend(), format="json", **{other: value})
    assert "'format'" in error["message"]
    assert f"'{other}'" in error["message"]


@pytest.mark.parametrize("value", ["xml", 1, [SCHEMA]])
async def test_format_that_is_no_shape_is_refused(value: object):
    assert (await refused(ScriptedBackend(), format=value))["param"] == "format"


async def test_refusal_of_a_shape_names_the_field_that_was_sent():
    backend = ScriptedBackend(honours=EVERYTHING - {"response_format"})
    assert (await refused(backend, format="json"))["param"] == "format"


# --- fingerprint ---


def fingerprinted(**facts: Any) -> ScriptedBackend:
    backend = ScriptedBackend(kind="ollama", models=(Model(name="m", **facts),))
    backend.version = "0.33.0"
    return backend


@pytest.mark.parametrize("url", PLAIN)
async def test_fingerprint_names_engine_version_and_weights(url: str):
    one = (await answered(fingerprinted(digest="sha256:1"), url))["system_fingerprint"]
    assert one.startswith("fp_ollama_0.33.0_")
    again = await streamed(fingerprinted(digest="sha256:1"), url, **WITH_USAGE)
    assert {chunk["system_fingerprint"] for chunk in again} == {one}
    other = await answered(fingerprinted(digest="sha256:2"), url)
    assert other["system_fingerprint"] != one
    newer = fingerprinted(digest="sha256:1")
    newer.version = "0.34.0"
    assert (await answered(newer, url))["system_fingerprint"].startswith("fp_ollama_0.34.0_")


async def test_fingerprint_without_a_digest_tells_quantizations_apart():
    found = {
        (await answered(fingerprinted(quantization=bits)))["system_fingerprint"]
        for bits in ("4bit", "8bit", "4bit")
    }
    assert len(found) == 2


async def test_fingerprint_stays_where_a_file_is_converted_to_another_size():
    found = {
        (await answered(fingerprinted(origin="sha256:1", size_bytes=size)))["system_fingerprint"]
        for size in (98, 102)
    }
    assert len(found) == 1


# --- custom tools ---


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def custom(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name, "description": "Runs code.", **more}}


def calling(name: str, *pieces: str, reason: Any = "tool_calls") -> ScriptedBackend:
    deltas: list[Event] = [ToolCallDelta(0, piece) for piece in pieces]
    end = Finished(reason, Usage(prompt_tokens=3, completion_tokens=2))
    return ScriptedBackend((Started(), ToolCallStarted(0, "call_1", name), *deltas, end))


@pytest.mark.parametrize("format_", [{}, {"format": {"type": "text"}}, {"format": None}])
async def test_custom_tool_is_a_function_of_one_text(format_: dict[str, Any]):
    request = await translated(tools=[tool("f"), custom("run", **format_)])
    made = request.tools[1]
    assert (made.name, made.description) == ("run", "Runs code.")
    assert made.parameters is not None
    assert made.parameters["required"] == ["input"]
    assert made.parameters["properties"]["input"]["type"] == "string"


@pytest.mark.parametrize(
    ("syntax", "form"), [("lark", Lark("start: /a/")), ("regex", Regex("start: /a/"))]
)
async def test_grammar_of_a_custom_tool_is_the_format_of_its_text(syntax: str, form: Lark | Regex):
    grammar = {"type": "grammar", "grammar": {"syntax": syntax, "definition": "start: /a/"}}
    request = await translated(tools=[custom("run", format=grammar)])
    assert request.tools[0].input_format == form
    assert "start: /a/" in (request.tools[0].description or "")


@pytest.mark.parametrize(
    "pieces",
    [('{"input": "print(\\"ä\\")\\n"}',), ('{"inp', 'ut": "pri', 'nt(\\"', 'ä\\")\\n"}')],
)
async def test_custom_call_comes_back_as_text(pieces: tuple[str, ...]):
    tools = [custom("run")]
    whole = await answered(calling("run", *pieces), tools=tools)
    (call,) = whole["choices"][0]["message"]["tool_calls"]
    text = 'print("ä")\n'
    assert call == {
        "id": "call_1",
        "type": "custom",
        "custom": {"input": text, "name": "run"},
    }
    chunks = await streamed(calling("run", *pieces), tools=tools)
    calls = [c for k in chunks for c in k["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0] == {
        "index": 0,
        "id": "call_1",
        "type": "custom",
        "custom": {"input": "", "name": "run"},
    }
    assert "".join(c["custom"]["input"] for c in calls) == text
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_function_beside_a_custom_tool_is_called_as_before():
    backend = calling("f", '{"a":', "1}")
    whole = await answered(backend, tools=[tool("f"), custom("run")])
    (call,) = whole["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["function"]["arguments"]) == ("function", '{"a":1}')


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"input": "pri', "pri"), ('{"input": "a\\', "a"), ('{"x": 1}', '{"x": 1}'), ("", "")],
)
async def test_text_of_a_broken_call_is_what_can_be_read(arguments: str, text: str):
    backend = calling("run", arguments, reason="length")
    whole = await answered(backend, tools=[custom("run")])
    (call,) = whole["choices"][0]["message"]["tool_calls"]
    assert call["custom"]["input"] == text


async def test_custom_call_of_the_history_and_a_forced_one():
    call = {"id": "c", "type": "custom", "custom": {"name": "run", "input": 'a"b'}}
    messages = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ]
    choice = {"type": "custom", "custom": {"name": "run"}}
    request = await translated(messages=messages, tools=[custom("run")], tool_choice=choice)
    assert isinstance(request.prompt, tuple)
    (made,) = request.prompt[1].tool_calls
    assert (made.name, json.loads(made.arguments)) == ("run", {"input": 'a"b'})
    assert request.tool_choice == NamedTool("run")


async def test_custom_tool_can_be_allowed():
    allowed = {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "run"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    request = await translated(tools=[tool("f"), custom("run")], tool_choice=choice)
    assert ([each.name for each in request.tools], request.tool_choice) == (["run"], "required")


# --- calls that cannot be forced ---

FORCED: list[Any] = ["required", {"type": "function", "function": {"name": "f"}}]
IMPOSSIBLE: list[dict[str, Any]] = [
    {"type": "array", "items": {}},
    {"type": "string"},
    {"type": ["string", "null"]},
    {"enum": []},
    {"enum": ["a"]},
    {"const": 1},
    {"type": "object", "properties": {"a": {"type": "string", "enum": []}}},
    {"type": "object", "properties": {"a": {"anyOf": [{"items": {"enum": []}}]}}},
]


@pytest.mark.parametrize("choice", FORCED, ids=str)
@pytest.mark.parametrize("parameters", IMPOSSIBLE, ids=str)
async def test_forced_call_without_possible_arguments_is_refused(
    parameters: dict[str, Any], choice: Any
):
    error = await refused(ScriptedBackend(), tools=[tool("f", **parameters)], tool_choice=choice)
    assert error["param"] == "tools[0].function.parameters"


async def test_forced_call_in_the_old_form_is_refused_by_its_name():
    function = {"name": "f", "parameters": {"type": "array"}}
    error = await refused(ScriptedBackend(), functions=[function], function_call={"name": "f"})
    assert error["param"] == "functions[0].parameters"


@pytest.mark.parametrize(
    ("parameters", "choice"),
    [
        ({"type": "array"}, "auto"),
        ({"type": "array"}, "none"),
        ({"type": "array"}, {"type": "function", "function": {"name": "g"}}),
        ({}, "required"),
        ({"type": ["object", "null"]}, "required"),
        ({"properties": {"enum": {"type": "array", "default": []}}}, "required"),
        ({"type": "object", "default": {"enum": []}}, "required"),
        ({"anyOf": [{"type": "object"}]}, "required"),
    ],
    ids=str,
)
async def test_call_with_possible_arguments_is_taken(parameters: dict[str, Any], choice: Any):
    request = await translated(tools=[tool("f", **parameters), tool("g")], tool_choice=choice)
    assert request.tools[0].parameters == parameters
