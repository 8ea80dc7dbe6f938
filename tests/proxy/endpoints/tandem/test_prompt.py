"""`POST /api/chat` with `{"model_id", "prompt"}`."""

import json
from typing import Any

import pytest
from fakes.scripted_backend import DONE, EVERYTHING, ScriptedBackend, http_client
from fakes.waiting import pause

from adapters.backend import Model
from adapters.errors import GenerationError, ModelNotFoundError
from adapters.events import ReasoningDelta, Started, TextDelta
from adapters.request import GenerationRequest, Message, Regex, Sampling, TextPart
from adapters.sink import Sink, events

URL = "/api/chat"
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def question(**fields: Any) -> dict[str, Any]:
    return {"model_id": "m", "prompt": "Hi", **fields}


async def test_answer_has_backend_usage_and_performance():
    async with http_client(ScriptedBackend(kind="mlx")) as client:
        answer = (await client.post(URL, json=question())).json()
    performance = answer.pop("performance")
    assert answer == {
        "model_id": "m",
        "backend": "mlx",
        "response": "Hello",
        "done": True,
        "finish_reason": "stop",
        "usage": USAGE,
    }
    assert set(performance) == {"ttft_s", "tokens_per_second", "total_s"}
    assert 0 <= performance["ttft_s"] <= performance["total_s"]
    assert performance["tokens_per_second"] > 0


async def test_stream_is_lines_of_which_the_last_tells_how_it_went():
    script = [Started(), ReasoningDelta("hm"), TextDelta("Hello"), DONE]
    async with http_client(ScriptedBackend(script)) as client:
        response = await client.post(URL, json=question(stream=True))
    assert response.headers["content-type"] == "application/x-ndjson"
    *pieces, end = [json.loads(line) for line in response.text.splitlines()]
    plain = {"model_id": "m", "backend": "scripted", "done": False}
    assert pieces == [
        {**plain, "response": "", "reasoning": "hm"},
        {**plain, "response": "Hello"},
    ]
    assert (end["done"], end["response"], end["usage"]) == (True, "", USAGE)
    assert end["finish_reason"] == "stop"


async def test_failure_in_the_middle_is_a_line_with_openais_body():
    script = [Started(), TextDelta("a"), GenerationError("It broke.")]
    async with http_client(ScriptedBackend(script)) as client:
        told = (await client.post(URL, json=question(stream=True))).text.splitlines()
    error = json.loads(told[-1])["error"]
    assert (error["message"], error["code"]) == ("It broke.", "generation_failed")


async def test_every_field_reaches_the_backend():
    backend = ScriptedBackend()
    body = question(
        system="Be brief.",
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        max_tokens=7,
        stop="x",
        seed=3,
        guided_regex="a+",
        reasoning_effort="low",
        num_ctx=512,
        keep_alive="1m",
        options={"typical_p": 0.5},
    )
    async with http_client(backend) as client:
        response = await client.post(URL, json=body)
    assert "x-tandem-ignored" not in response.headers
    (asked,) = backend.requests
    assert asked.prompt == (
        Message(role="system", content=(TextPart("Be brief."),)),
        Message(role="user", content=(TextPart("Hi"),)),
    )
    assert asked.sampling == Sampling(temperature=0.5, top_p=0.9, top_k=5, seed=3)
    assert (asked.max_tokens, asked.stop) == (7, ("x",))
    assert asked.response_format == Regex("a+")
    assert (asked.reasoning_effort, asked.num_ctx) == ("low", 512)
    assert (asked.keep_alive, asked.options) == (60.0, {"typical_p": 0.5})


async def test_raw_prompt_is_continued_as_it_is():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        await client.post(URL, json=question(raw=True))
    assert backend.requests[0].prompt == "Hi"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (question(n=2), "n"),
        (question(stream_options={}), "stream_options"),
        (question(raw=True, system="x"), "system"),
        (question(model="other"), "model_id"),
        ({"prompt": "Hi"}, "model_id"),
        ({"model_id": "m"}, "prompt"),
        (question(prompt=""), "prompt"),
        (question(temperature=9), "temperature"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(body: dict[str, Any], param: str):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(URL, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not backend.requests


async def test_what_nobody_honours_is_refused_by_name():
    async with http_client(ScriptedBackend(honours=EVERYTHING - {"seed"})) as client:
        response = await client.post(URL, json=question(options={"seed": 1}))
    assert response.json()["error"]["param"] == "options.seed"


async def test_model_that_nobody_has_is_not_found():
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json=question(model_id="absent"))
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model_id")


class Slow(ScriptedBackend):
    """Thinks before the end."""

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        async for event in events(ScriptedBackend(), request):
            if event == DONE:
                await pause(0.1)
            sink.write(event)


async def test_other_backend_gives_the_whole_answer_of_which_the_first_has_a_part():
    breaks = [Started(), TextDelta("Lost"), GenerationError("It broke.")]
    mlx, ollama = ScriptedBackend(breaks, kind="mlx"), Slow(kind="ollama")
    async with http_client(mlx, ollama) as client:
        response = await client.post(URL, json=question())
    answer = response.json()
    assert (answer["backend"], answer["response"]) == ("ollama", "Hello")
    assert response.headers["x-tandem-fallback-from"] == "mlx; reason=generation_failed"
    performance = answer["performance"]
    assert performance["total_s"] - performance["ttft_s"] > 0.09


async def test_other_backend_answers_where_the_first_fails():
    failing = ScriptedBackend([ModelNotFoundError("gone")], kind="mlx", models=[Model(name="m")])
    async with http_client(failing, ScriptedBackend(kind="ollama")) as client:
        response = await client.post(URL, json=question())
    assert response.json()["backend"] == response.headers["x-tandem-backend"] == "ollama"
    assert response.headers["x-tandem-fallback-from"].startswith("mlx;")


async def test_forced_backend_answers():
    mlx, other = ScriptedBackend(kind="mlx"), ScriptedBackend(kind="ollama")
    async with http_client(mlx, other) as client:
        for body in (question(backend="ollama"), question(model_id="ollama/m")):
            assert (await client.post(URL, json=body)).json()["backend"] == "ollama"
