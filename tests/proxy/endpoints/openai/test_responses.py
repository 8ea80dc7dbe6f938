"""`POST /v1/responses`: items to messages, events to items, and OpenAI's own client."""

import json
from typing import Any

import pytest
from fakes.openai_schema import validators
from fakes.scripted_backend import ScriptedBackend, Step, http_client, openai_client
from jsonschema import ValidationError

from adapters.backend import TokenCount
from adapters.errors import GenerationError
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.request import GenerationRequest, JSONSchema, Lark, NamedTool

URL = "/v1/responses"
USAGE = Usage(prompt_tokens=3, completion_tokens=2)
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
PATCH = {
    "type": "custom",
    "name": "patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /a/"},
}
EVERYTHING: tuple[Step, ...] = (
    Started(),
    ReasoningDelta("hm"),
    ReasoningDelta("m"),
    TextDelta("Hel"),
    TextDelta("lo"),
    ToolCallStarted(0, "call_1", "f"),
    ToolCallDelta(0, '{"a"'),
    ToolCallDelta(0, ":1}"),
    ToolCallStarted(1, "call_2", "patch"),
    ToolCallDelta(1, '{"input": "x\\'),
    ToolCallDelta(1, 'n\\ud83d\\ude00"}'),
    Finished("tool_calls", USAGE),
)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": "Hi", **fields}


async def answered(backend: ScriptedBackend, **fields: Any) -> dict[str, Any]:
    async with http_client(backend) as client:
        response = await client.post(URL, json=body(**fields))
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(backend: ScriptedBackend, **fields: Any) -> list[dict[str, Any]]:
    async with http_client(backend) as client:
        text = (await client.post(URL, json=body(stream=True, **fields))).text
    events: list[dict[str, Any]] = []
    *frames, end = text.strip().split("\n\n")
    assert end == "data: [DONE]"
    for frame in frames:
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def translated(**fields: Any) -> GenerationRequest:
    backend = ScriptedBackend()
    await answered(backend, **fields)
    return backend.requests[0]


async def refused(**fields: Any) -> dict[str, Any]:
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json=body(**fields))
    assert response.status_code == 400
    return response.json()["error"]


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in item.items() if key != "id"} for item in items]


async def test_events_come_in_order_and_add_up_to_the_whole_answer():
    tools = [FUNCTION, PATCH]
    events = await streamed(ScriptedBackend(EVERYTHING), tools=tools)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.delta", "reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "output_item.added"),
        *("function_call_arguments.delta",) * 2,
        *("function_call_arguments.done", "output_item.done", "output_item.added"),
        *("custom_tool_call_input.delta",) * 2,
        *("custom_tool_call_input.done", "output_item.done", "completed"),
    ]
    output = events[-1]["response"]["output"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == output
    texts = [e["delta"] for e in events if e["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(texts) == "x\n😀" == output[3]["input"]
    whole = await answered(ScriptedBackend(EVERYTHING), tools=tools)
    assert without_ids(whole["output"]) == without_ids(output)


_CALL = (ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, '{"a": 1}'))
_DONE, _CUT = Finished("stop", USAGE), Finished("length", USAGE)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ((*_CALL, TextDelta("then"), _DONE), ["function_call", "message"]),
        (
            (TextDelta("a"), *_CALL, ReasoningDelta("hm"), TextDelta("b"), _DONE),
            ["message", "function_call", "reasoning", "message"],
        ),
        ((TextDelta("a"), *_CALL, _CUT), ["message", "function_call incomplete"]),
        ((ReasoningDelta("hm"), _DONE), ["reasoning", "message"]),
        ((ReasoningDelta("hm"), _CUT), ["reasoning"]),
        ((_DONE,), ["message"]),
        ((_CUT,), ["message incomplete"]),
    ],
)
async def test_whole_answer_has_the_items_of_the_stream(
    script: tuple[Event, ...], expected: list[str]
):
    backend = ScriptedBackend((Started(), *script))
    whole = await answered(backend, tools=[FUNCTION])
    streamed_output = (await streamed(backend, tools=[FUNCTION]))[-1]["response"]["output"]
    assert without_ids(whole["output"]) == without_ids(streamed_output)
    kinds = [f"{i['type']} {i.get('status', '')}" for i in whole["output"]]
    assert [kind.removesuffix("completed").strip() for kind in kinds] == expected


async def test_text_after_a_call_is_part_of_the_message_that_calls():
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"role": "assistant", "content": "Wait."},
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
    ]
    messages: Any = (await translated(input=items, tools=[FUNCTION])).prompt
    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assert (messages[1].text, len(messages[1].tool_calls)) == ("Wait.", 1)


async def test_answer_is_input_again_as_one_message_of_the_model():
    include = ["reasoning.encrypted_content"]
    tools = [FUNCTION, PATCH]
    first = await answered(ScriptedBackend(EVERYTHING), tools=tools, include=include)
    results = [
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "2"},
    ]
    start = {"role": "user", "content": "Hi"}
    # The reasoning comes from its encrypted content alone.
    first["output"][0]["content"] = []
    request = await translated(input=[start, *first["output"], *results], tools=tools)
    messages: Any = request.prompt
    assert [message.role for message in messages] == ["user", "assistant", "tool", "tool"]
    assert (messages[1].reasoning, messages[1].text) == ("hmm", "Hello")
    assert [json.loads(call.arguments) for call in messages[1].tool_calls] == [
        {"a": 1},
        {"input": "x\n😀"},
    ]
    assert [message.tool_call_id for message in messages[2:]] == ["call_1", "call_2"]


async def test_summary_is_shown_in_place_of_reasoning_where_one_is_asked_for():
    events = await streamed(ScriptedBackend(EVERYTHING), reasoning={"summary": "auto"})
    kinds = [event["type"] for event in events]
    assert "response.reasoning_summary_text.delta" in kinds
    assert "response.reasoning_text.delta" not in kinds
    item = events[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "hmm"}]


async def test_answer_cut_by_the_limit_is_incomplete():
    script = (Started(), TextDelta("Hel"), Finished("length", USAGE))
    events = await streamed(ScriptedBackend(script), max_output_tokens=1)
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == response["status"] == "incomplete"


async def test_failure_after_the_beginning_ends_with_an_error_and_the_failed_answer():
    script = (Started(), TextDelta("Hel"), GenerationError("It broke."))
    error, last = (await streamed(ScriptedBackend(script)))[-2:]
    assert (error["type"], error["message"]) == ("error", "It broke.")
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "It broke."}
    assert last["response"]["output"][0]["content"][0]["text"] == "Hel"


async def test_obfuscation_fills_deltas_to_one_length_where_asked_for():
    options = {"include_obfuscation": True}
    events = await streamed(ScriptedBackend(), stream_options=options)
    deltas = [event for event in events if "delta" in event]
    assert [len(each["delta"] + each["obfuscation"]) for each in deltas] == [16, 16]


async def test_tools_are_functions_with_flat_names_that_come_back():
    long = "n" * 60
    space = {"type": "namespace", "name": "mcp__x", "description": "", "tools": [FUNCTION]}
    tools = [space, {**space, "name": long, "tools": [{**FUNCTION, "name": "g" * 20}]}]
    request = await translated(tools=tools)
    short, cut = [tool.name for tool in request.tools]
    assert short == "mcp__x__f"
    assert len(cut) == 64
    assert cut.startswith(long[:55])
    script = (Started(), ToolCallStarted(0, "c", cut), ToolCallDelta(0, "{}"))
    backend = ScriptedBackend((*script, Finished("tool_calls", USAGE)))
    call = (await answered(backend, tools=tools))["output"][0]
    assert (call["namespace"], call["name"]) == (long, "g" * 20)


async def test_custom_format_reaches_the_contract():
    request = await translated(tools=[PATCH], tool_choice={"type": "custom", "name": "patch"})
    assert request.tools[0].input_format == Lark("start: /a/")
    assert request.tool_choice == NamedTool("patch")


@pytest.mark.parametrize(
    ("strict", "expected"), [(None, (False, True)), (True, (True, False)), (False, (False, False))]
)
async def test_strict_left_out_is_a_wish(strict: bool | None, expected: tuple[bool, bool]):
    tool = (await translated(tools=[{**FUNCTION, "strict": strict}])).tools[0]
    assert (tool.strict, tool.prefers_strict) == expected


async def test_fields_reach_the_contract():
    schema = {"type": "object"}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    request = await translated(
        instructions="Be terse.",
        max_output_tokens=20,
        temperature=0.5,
        top_p=0.5,
        top_logprobs=2,
        parallel_tool_calls=False,
        text={"format": form},
        reasoning={"effort": "max"},
    )
    messages: Any = request.prompt
    assert [(m.role, m.text) for m in messages] == [("system", "Be terse."), ("user", "Hi")]
    assert (request.max_tokens, request.top_logprobs) == (20, 2)
    assert (request.sampling.temperature, request.sampling.top_p) == (0.5, 0.5)
    assert request.response_format == JSONSchema(schema, strict=True)
    assert request.reasoning_effort == "xhigh"
    assert request.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "holodeck_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0].server_url"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": ""}, "tool_choice"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools[1]"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"n": 2}, "n"),
        (
            {"input": [{"type": "compaction", "encrypted_content": "foreign"}]},
            "input[0].encrypted_content",
        ),
        (
            {"input": [{"type": "reasoning", "encrypted_content": "tandem1.AAAA"}]},
            "input[0].encrypted_content",
        ),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str):
    assert (await refused(**fields))["param"] == param


async def test_wishes_and_built_in_tools_are_named_as_ignored():
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(
            URL,
            json=body(
                input=[{"role": "user", "content": "Hi"}, foreign],
                tools=[{"type": "web_search"}, {**FUNCTION, "unknown": 1}],
                store=True,
                text={"verbosity": "low"},
            ),
        )
    ignored = response.headers["x-tandem-ignored"].split(", ")
    assert set(ignored) == {
        "text.verbosity",
        "tools[0]",
        "tools[1].unknown",
        "input[1].encrypted_content",
    }


@pytest.mark.parametrize("script", [EVERYTHING, (Started(), Finished("length", USAGE))])
async def test_answer_and_events_match_openais_schema(
    script: tuple[Step, ...], openai_components: dict[str, Any]
):
    answer, delta = validators(openai_components, "Response", "ResponseStreamEvent")
    fields = {"tools": [FUNCTION, PATCH], "reasoning": {"summary": "auto"}}
    answer.validate(await answered(ScriptedBackend(script), **fields))
    for event in await streamed(ScriptedBackend(script), **fields):
        # The schema forbids the null that OpenAI sends, and Open Responses requires, until the end.
        if event.get("response", {}).get("usage", 0) is None:
            del event["response"]["usage"]
        delta.validate(event)
    with pytest.raises(ValidationError):
        answer.validate({})


@pytest.mark.slow
async def test_openais_client_creates_streams_and_parses():
    async with openai_client(ScriptedBackend()) as client:
        assert (await client.responses.create(model="m", input="Hi")).output_text == "Hello"
        async with client.responses.stream(model="m", input="Hi") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.output_text == "Hello"


class CountingBackend(ScriptedBackend):
    """Counts 400 tokens for every prompt."""

    async def count_tokens(self, request: GenerationRequest) -> TokenCount:
        return TokenCount(400, exact=True)


async def test_input_tokens_are_counted_without_an_answer():
    backend = CountingBackend()
    async with http_client(backend) as client:
        response = await client.post(f"{URL}/input_tokens", json=body())
    assert response.json() == {"object": "response.input_tokens", "input_tokens": 400}
    assert response.headers["x-tandem-token-count"] == "exact"
    assert backend.requests == []


async def test_compaction_keeps_the_last_turn_and_is_input_again():
    backend = CountingBackend()
    turns = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": "What is my name?"},
    ]
    async with http_client(backend) as client:
        response = await client.post(f"{URL}/compact", json=body(input=turns))
        compacted = response.json()
        await client.post(URL, json=body(input=compacted["output"]))
    summarised, continued = backend.requests
    assert summarised.max_tokens == 100
    assert compacted["object"] == "response.compaction"
    assert [item["type"] for item in compacted["output"]] == ["compaction", "message"]
    content = [{"type": "input_text", "text": "What is my name?"}]
    assert compacted["output"][1]["content"] == content
    assert "Hello" not in compacted["output"][0]["encrypted_content"]
    messages: Any = continued.prompt
    texts = [message.text for message in messages]
    assert texts == ["Summary of the conversation so far:\nHello", "What is my name?"]
