"""Events -> OpenAI's answers, as the official client sees them."""

import json
from typing import Any

import openai
import pytest
from fakes.scripted_backend import DONE, HELLO, ScriptedBackend, chat, http_client, openai_client

from adapters.config import EchoConfig
from adapters.echo import EchoBackend
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

URL = "/v1/chat/completions"
HI: Any = [{"role": "user", "content": "Hi"}]

LOGPROB = TokenLogprob(
    token="Hi",
    logprob=-0.5,
    bytes=(72, 105),
    top=(TokenLogprob(token="Hi", logprob=-0.5, bytes=(72, 105)),),
)
EVERYTHING_SAID: list[Event] = [
    Started(),
    ReasoningDelta("Let me "),
    ReasoningDelta("see."),
    TextDelta("Hi", (LOGPROB,)),
    ToolCallStarted(0, "c0", "f"),
    ToolCallDelta(0, '{"a":'),
    ToolCallDelta(0, "1}"),
    ToolCallStarted(1, "c1", "g"),
    ToolCallDelta(1, "{}"),
    Finished(
        "tool_calls",
        Usage(prompt_tokens=5, completion_tokens=9, cached_tokens=4, reasoning_tokens=2),
    ),
]


async def test_sdk_gets_the_answer_of_the_echo_backend():
    async with openai_client(EchoBackend(EchoConfig(reply="Paris."))) as client:
        answer = await client.chat.completions.create(model="echo", messages=HI)
        chunks = await client.chat.completions.create(model="echo", messages=HI, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in chunks])
    assert answer.choices[0].message.content == text == "Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 2


async def test_whole_answer():
    async with http_client(ScriptedBackend(EVERYTHING_SAID)) as client:
        response = await client.post(URL, json=chat())
    body = response.json()
    assert response.headers["x-tandem-backend"] == "scripted"
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 1_700_000_000
    assert body.pop("system_fingerprint").startswith("fp_scripted_1.2_")
    assert body == {
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi",
                    "refusal": None,
                    "reasoning_content": "Let me see.",
                    "reasoning": "Let me see.",
                    "annotations": [],
                    "tool_calls": [
                        {
                            "id": "c0",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a":1}'},
                        },
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "g", "arguments": "{}"},
                        },
                    ],
                },
                "logprobs": {
                    "content": [
                        {
                            "token": "Hi",
                            "logprob": -0.5,
                            "bytes": [72, 105],
                            "top_logprobs": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}],
                        }
                    ],
                    "refusal": None,
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 9,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


async def streamed(script: list[Any], **fields: Any) -> list[Any]:
    """The data of every event, decoded where it is JSON."""
    async with http_client(ScriptedBackend(script)) as client:
        response = await client.post(URL, json=chat(stream=True, **fields))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-tandem-backend"] == "scripted"
    *events, rest = response.text.split("\n\n")
    assert rest == ""
    data = [event.removeprefix("data: ") for event in events]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


async def test_streamed_answer():
    *chunks, done = await streamed(EVERYTHING_SAID)
    assert done == "[DONE]"
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert [c["choices"][0]["delta"] for c in chunks] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Let me ", "reasoning": "Let me "},
        {"reasoning_content": "see.", "reasoning": "see."},
        {"content": "Hi"},
        _call(0, id="c0", type="function", function={"arguments": "", "name": "f"}),
        _call(0, function={"arguments": '{"a":'}),
        _call(0, function={"arguments": "1}"}),
        _call(1, id="c1", type="function", function={"arguments": "", "name": "g"}),
        _call(1, function={"arguments": "{}"}),
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 9 + ["tool_calls"]
    assert chunks[3]["choices"][0]["logprobs"]["content"][0]["bytes"] == [72, 105]
    assert all("usage" not in c for c in chunks)


def _call(index: int, **rest: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **rest}]}


async def test_usage_comes_in_a_last_chunk_when_asked_for():
    *chunks, last, done = await streamed(list(HELLO), stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert [c["usage"] for c in chunks] == [None] * 4
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


TWO_CHOICES: list[Event] = [
    Started(context=512),
    TextDelta("b", choice=1),
    TextDelta("a"),
    Finished("stop", Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)),
    Finished("length", Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=3), choice=1),
]
TWO_USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 6,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


async def test_two_choices_in_one_answer():
    async with http_client(ScriptedBackend(TWO_CHOICES)) as client:
        response = await client.post(URL, json=chat(n=2))
    body = response.json()
    assert response.headers["x-tandem-context"] == "512"
    assert [(c["index"], c["message"]["content"]) for c in body["choices"]] == [(0, "a"), (1, "b")]
    assert [c["finish_reason"] for c in body["choices"]] == ["stop", "length"]
    assert body["usage"] == TWO_USAGE


async def test_two_choices_streamed():
    *chunks, last, done = await streamed(TWO_CHOICES, n=2, stream_options={"include_usage": True})
    choices = [c["choices"][0] for c in chunks]
    assert [c["index"] for c in choices] == [0, 1, 1, 0, 0, 1]
    assert [c["delta"].get("role") for c in choices] == ["assistant"] * 2 + [None] * 4
    assert [c["finish_reason"] for c in choices] == [None] * 4 + ["stop", "length"]
    assert (last["choices"], last["usage"], done) == ([], TWO_USAGE, "[DONE]")


async def test_content_is_null_when_there_are_only_calls():
    script = [Started(), ToolCallStarted(0, "c", "f"), ToolCallDelta(0, "{}"), DONE]
    async with http_client(ScriptedBackend(script)) as client:
        message = (await client.post(URL, json=chat())).json()["choices"][0]["message"]
    assert message["content"] is None


async def test_content_is_text_when_nothing_was_said():
    async with http_client(ScriptedBackend([Started(), DONE])) as client:
        message = (await client.post(URL, json=chat())).json()["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": "",
        "refusal": None,
        "annotations": [],
    }


async def test_model_is_the_name_that_the_client_asked_for():
    async with openai_client(ScriptedBackend()) as client:
        answer = await client.chat.completions.create(model="scripted/m", messages=HI)
    assert answer.model == "scripted/m"


async def test_backend_gets_its_own_name_of_the_model():
    backend = ScriptedBackend()
    async with openai_client(backend) as client:
        await client.chat.completions.create(model="scripted/M", messages=HI)
    assert backend.requests[0].model == "m"


async def test_sdk_accumulates_the_stream_to_the_whole_answer():
    async with (
        openai_client(ScriptedBackend(EVERYTHING_SAID)) as client,
        client.chat.completions.stream(model="m", messages=HI) as stream,
    ):
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == "Hi"
    assert message.tool_calls is not None
    assert [(c.id, c.function.arguments) for c in message.tool_calls] == [
        ("c0", '{"a":1}'),
        ("c1", "{}"),
    ]


async def test_unknown_model_is_the_sdks_not_found():
    async with openai_client(ScriptedBackend()) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="n", messages=HI)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id is not None


@pytest.mark.parametrize(
    "script", [list(HELLO), EVERYTHING_SAID, [Started(), DONE]], ids=["text", "all", "nothing"]
)
async def test_every_kind_of_event_has_openais_shape(script: list[Any]):
    """Bodies and events are validated by `recorder.plugin`."""
    async with http_client(ScriptedBackend(script)) as client:
        assert (await client.post(URL, json=chat())).status_code == 200
    assert await streamed(script, stream_options={"include_usage": True})


OLD_CALL = [
    Started(),
    ToolCallStarted(0, "c0", "f"),
    ToolCallDelta(0, "{}"),
    Finished("tool_calls", Usage(prompt_tokens=1, completion_tokens=1)),
]


async def test_functions_are_answered_in_their_own_shape():
    async with http_client(ScriptedBackend(OLD_CALL)) as client:
        body = (await client.post(URL, json=chat(functions=[{"name": "f"}]))).json()
    message = body["choices"][0]["message"]
    assert message["function_call"] == {"name": "f", "arguments": "{}"}
    assert "tool_calls" not in message
    assert body["choices"][0]["finish_reason"] == "function_call"


async def test_functions_are_streamed_in_their_own_shape():
    *chunks, _done = await streamed(OLD_CALL, functions=[{"name": "f"}])
    assert [c["choices"][0]["delta"].get("function_call") for c in chunks] == [
        None,
        {"name": "f", "arguments": ""},
        {"arguments": "{}"},
        None,
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"


async def test_backend_knows_clients_apart_and_no_key():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        for headers, fields in (
            ({}, {}),
            ({"authorization": "Bearer a"}, {}),
            ({"x-api-key": "a"}, {}),
            ({"authorization": "Bearer b"}, {}),
            ({"authorization": "Bearer a"}, {"prompt_cache_key": "k"}),
        ):
            await client.post(URL, json=chat(**fields), headers=headers)
    without_user, a, a_again, b, a_with_key = [request.client for request in backend.requests]
    assert without_user == ""
    assert a == a_again
    assert len({a, b, a_with_key}) == 3
    assert all(len(each) == 16 for each in (a, b, a_with_key))
