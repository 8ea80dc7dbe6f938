"""`POST /api/generate`: prompts, text to continue, conversations by `context`, loads."""

import json
from typing import Any

import pytest
from fakes.pictures import data_url, png
from fakes.scripted_backend import DONE, ScriptedBackend, Step, http_client

from adapters.events import Finished, ReasoningDelta, Started, TextDelta, TokenLogprob, Usage
from adapters.request import ImagePart, JSONSchema, TextPart

URL = "/api/generate"
PICTURE = data_url(png(2, 2)).partition(",")[2]
SCHEMA: Any = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
THINKING: list[Step] = [Started(), ReasoningDelta("Hm."), TextDelta("Hel"), TextDelta("lo"), DONE]


async def ask(backend: ScriptedBackend, **fields: Any) -> dict[str, Any]:
    async with http_client(backend) as client:
        response = await client.post(URL, json={"model": "m", "stream": False, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def told(backend: ScriptedBackend) -> list[tuple[str, str]]:
    """Role and text of the messages of the last request."""
    prompt = backend.requests[-1].prompt
    assert isinstance(prompt, tuple)
    return [(message.role, message.text) for message in prompt]


async def test_stream_ends_with_counts_and_context():
    async with http_client(ScriptedBackend(THINKING)) as client:
        response = await client.post(URL, json={"model": "m", "prompt": "Hi"})
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["response"] for line in lines] == ["", "Hel", "lo", ""]
    assert [line.get("thinking") for line in lines] == ["Hm.", None, None, None]
    assert [line["done"] for line in lines] == [False, False, False, True]
    last = lines[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 3, 2)
    assert last["total_duration"] >= 0
    assert all(isinstance(number, int) for number in last["context"])


async def test_whole_answer_has_all_in_one_object():
    answer = await ask(ScriptedBackend(THINKING), prompt="Hi")
    assert (answer["response"], answer["thinking"], answer["done"]) == ("Hello", "Hm.", True)


async def test_context_continues_the_conversation():
    backend = ScriptedBackend()
    first = await ask(backend, prompt="My name is Åsa 😀", system="Be kind.")
    await ask(backend, prompt="And now?", context=first["context"])
    assert told(backend) == [
        ("system", "Be kind."),
        ("user", "My name is Åsa 😀"),
        ("assistant", "Hello"),
        ("user", "And now?"),
    ]


async def test_system_prompt_replaces_that_of_the_context():
    backend = ScriptedBackend()
    first = await ask(backend, prompt="Hi", system="Be kind.")
    await ask(backend, prompt="Again", system="Be brief.", context=first["context"])
    assert told(backend)[0] == ("system", "Be brief.")
    assert ("system", "Be kind.") not in told(backend)


@pytest.mark.parametrize("numbers", [[1, 2, 3], [32058, 0, 1], [32058, 0, 70000], [32058, 9, 9]])
async def test_foreign_context_is_refused(numbers: list[int]):
    async with http_client(ScriptedBackend()) as client:
        body = {"model": "m", "prompt": "Hi", "context": numbers}
        response = await client.post(URL, json=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("'context' is not from an answer of this server")


async def test_raw_and_suffix_are_text_to_continue():
    backend = ScriptedBackend()
    raw = await ask(backend, prompt="Once", raw=True)
    await ask(backend, prompt="def f(", suffix="return 1")
    assert "context" not in raw
    assert [(r.prompt, r.suffix) for r in backend.requests] == [
        ("Once", None),
        ("def f(", "return 1"),
    ]


async def test_fields_reach_the_backend():
    backend = ScriptedBackend()
    fields = {"format": SCHEMA, "think": "low", "keep_alive": "5m", "options": {"seed": 7}}
    await ask(backend, prompt="What is this?", images=[PICTURE], **fields)
    (request,) = backend.requests
    assert request.response_format == JSONSchema(SCHEMA)
    assert (request.reasoning_effort, request.keep_alive) == ("low", 300.0)
    assert request.sampling.seed == 7
    assert isinstance(request.prompt, tuple)
    (message,) = request.prompt
    text, image = message.content
    assert text == TextPart("What is this?")
    assert isinstance(image, ImagePart)


async def test_logprobs_stand_beside_their_text():
    token = TokenLogprob(token="Hi", logprob=-0.5, bytes=(72, 105))
    done = Finished("length", Usage(prompt_tokens=3, completion_tokens=1))
    backend = ScriptedBackend([Started(), TextDelta("Hi", (token,)), done])
    answer = await ask(backend, prompt="Hi", logprobs=True)
    assert answer["logprobs"] == [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}]
    assert answer["done_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({}, "load"), ({"keep_alive": 0}, "unload"), ({"prompt": None}, "load")],
)
async def test_without_a_prompt_the_model_is_loaded_or_unloaded(
    fields: dict[str, Any], reason: str
):
    backend = ScriptedBackend()
    answer = await ask(backend, **fields)
    assert (answer["response"], answer["done"], answer["done_reason"]) == ("", True, reason)
    assert not backend.requests


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"raw": True, "system": "x"}, "system"),
        ({"raw": True, "images": [PICTURE]}, "images"),
        ({"suffix": "x", "context": [1]}, "context"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"format": "yaml"}, "format"),
        ({"images": ["%%%"]}, "images[0]"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json={"model": "m", "prompt": "Hi", **fields})
    assert response.status_code == 400
    assert f"'{param}'" in response.json()["error"]
