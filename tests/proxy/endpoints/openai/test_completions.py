"""`/v1/completions`: prompts in, texts out."""

import json
from typing import Any

import pytest
from fakes.scripted_backend import (
    EVERYTHING,
    HELLO,
    ScriptedBackend,
    http_client,
    openai_client,
)

from adapters.errors import ContextLengthError, GenerationError
from adapters.events import Finished, Started, TextDelta, TokenLogprob, Usage
from adapters.request import Feature, TokenIds

URL = "/v1/completions"
CHAT_URL = "/v1/chat/completions"
LOGPROB = TokenLogprob(token="Hi", logprob=-0.5, top=(TokenLogprob(token="Hi", logprob=-0.5),))


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "Once", **fields}


async def test_sdk_gets_a_text_for_each_prompt_and_choice():
    backend = ScriptedBackend()
    async with openai_client(backend) as client:
        answer = await client.completions.create(model="m", prompt=["a", "b"], n=2)
    assert [(c.index, c.text, c.finish_reason) for c in answer.choices] == [
        (at, "Hello", "stop") for at in range(4)
    ]
    assert {request.prompt for request in backend.requests} == {"a", "b"}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 8)


async def test_several_prompts_are_one_stream():
    async with http_client(ScriptedBackend()) as client:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        response = await client.post(URL, json=body(prompt=[[1], [2]], **options))
    *frames, done, _ = response.text.split("\n\n")
    *chunks, last = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "Hello", 1: "Hello"}
    assert (last["choices"], last["usage"]["total_tokens"], done) == ([], 10, "data: [DONE]")


@pytest.mark.parametrize(
    ("path", "prompt"),
    [(URL, {"prompt": "Hi"}), (CHAT_URL, {"messages": [{"role": "user", "content": "Hi"}]})],
)
@pytest.mark.parametrize("wanted", [True, False])
async def test_obfuscation_fills_chunks_to_one_length_where_asked_for(
    path: str, prompt: dict[str, Any], wanted: bool
):
    script = [Started(), TextDelta("abc"), TextDelta("abcd", (LOGPROB,)), TextDelta("abcdefghi")]
    options = {"stream": True, "stream_options": {"include_obfuscation": wanted}}
    async with http_client(ScriptedBackend([*script, *HELLO[-1:]])) as client:
        response = await client.post(path, json={"model": "m", **prompt, **options})
    lengths = {len(frame) % 16 for frame in response.text.split("\n\n")[:-2]}
    assert (len(lengths) == 1) is wanted
    assert ("obfuscation" in response.text) is wanted


async def test_one_error_ends_all_prompts():
    backend = ScriptedBackend([Started(), GenerationError("Broken.")])
    async with http_client(backend) as client:
        response = await client.post(URL, json=body(prompt=["a", "b"]))
    assert response.status_code == 500
    assert backend.running == 0


async def test_logprobs_have_the_old_shape():
    script = [
        Started(),
        TextDelta("HiHi", (LOGPROB, LOGPROB)),
        Finished("length", Usage(prompt_tokens=1, completion_tokens=2)),
    ]
    async with http_client(ScriptedBackend(script)) as client:
        choice = (await client.post(URL, json=body(logprobs=1))).json()["choices"][0]
    assert choice == {
        "text": "HiHi",
        "index": 0,
        "logprobs": {
            "tokens": ["Hi", "Hi"],
            "token_logprobs": [-0.5, -0.5],
            "top_logprobs": [{"Hi": -0.5}, {"Hi": -0.5}],
            "text_offset": [0, 2],
        },
        "finish_reason": "length",
    }


def token(text: str, **fields: Any) -> TokenLogprob:
    own = {"logprob": -1.0, "bytes": tuple(text.encode()), **fields}
    return TokenLogprob(token=text, **own)


ECHOED = [
    Started(),
    # 0xC3 0xA9 is one character, é, of two tokens; <s> is in no text.
    TextDelta(
        "Né",
        (
            token("<s>", bytes=(), is_first=True),
            token("N"),
            token("\ufffd", bytes=(0xC3,), top=(token("\ufffd"), token("\ufffd", logprob=-2.0))),
            token("\ufffd", bytes=(0xA9,)),
        ),
    ),
    TextDelta("!", (token("!"),)),
    Finished("length", Usage(prompt_tokens=4, completion_tokens=1)),
]
EXPECTED = {
    "tokens": ["<s>", "N", "\ufffd", "\ufffd", "!"],
    "token_logprobs": [None, -1.0, -1.0, -1.0, -1.0],
    "top_logprobs": [None, {}, {"\ufffd": -1.0}, {}, {}],
    "text_offset": [0, 0, 1, 1, 2],
}


async def test_an_echoed_prompt_is_reported_before_the_answer():
    async with http_client(ScriptedBackend(ECHOED)) as client:
        choice = (await client.post(URL, json=body(echo=True, logprobs=2))).json()["choices"][0]
    assert (choice["text"], choice["logprobs"]) == ("Né!", EXPECTED)


async def test_an_echoed_prompt_is_reported_alike_when_streamed():
    async with http_client(ScriptedBackend(ECHOED)) as client:
        asked = body(echo=True, logprobs=2, stream=True)
        response = await client.post(URL, json=asked)
    *frames, _, _ = response.text.split("\n\n")
    choices = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames]
    reported = [choice["logprobs"] for choice in choices if choice["logprobs"] is not None]
    assert {key: [x for each in reported for x in each[key]] for key in EXPECTED} == EXPECTED


async def test_no_answer_may_be_asked_for_where_the_prompt_is_shown():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(URL, json=body(echo=True, max_tokens=0))
    assert response.status_code == 200
    assert backend.requests[0].max_tokens == 0


async def test_request_is_translated():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        await client.post(URL, json=body(suffix="end", echo=True, best_of=1, options={"seed": 7}))
        await client.post(URL, json={"model": "m", "prompt": [1, 2], "max_tokens": 5})
    first, second = backend.requests
    assert (first.prompt, first.suffix, first.echo) == ("Once", "end", True)
    assert (first.max_tokens, first.sampling.seed) == (16, 7)
    assert (second.prompt, second.max_tokens) == (TokenIds((1, 2)), 5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"n": 9}, "n"),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json=body(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("feature", "fields", "param"),
    [
        ("prompt", {}, "prompt"),
        ("tokens", {"prompt": [1]}, "prompt"),
        ("suffix", {"suffix": "x"}, "suffix"),
        ("echo", {"echo": True}, "echo"),
        ("echo_logprobs", {"echo": True, "logprobs": 0}, "echo"),
        ("empty_answer", {"echo": True, "max_tokens": 0}, "max_tokens"),
    ],
)
async def test_what_nobody_honours_is_refused_by_name(
    feature: Feature, fields: dict[str, Any], param: str
):
    async with http_client(ScriptedBackend(honours=EVERYTHING - {feature})) as client:
        response = await client.post(URL, json=body(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("param", ["messages", "prompt"])
@pytest.mark.parametrize(("path", "model"), [(URL, "model"), ("/api/chat", "model_id")])
async def test_prompt_that_is_too_long_is_named_as_it_was_sent(path: str, model: str, param: str):
    backend = ScriptedBackend([ContextLengthError("It is too long.", param=param)])
    async with http_client(backend) as client:
        response = await client.post(path, json={model: "m", "prompt": "Once"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
