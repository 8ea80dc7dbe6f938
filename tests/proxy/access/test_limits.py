"""Limits of a key: requests and tokens a minute, answers in progress, and their headers."""

import asyncio
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from fakes.scripted_audio import ScriptedAudio
from fakes.scripted_backend import (
    BASE,
    DONE,
    HANG,
    ScriptedBackend,
    chat,
    http_client,
    openai_client,
)
from fakes.tiny_audio import sine

from adapters.audio import SpeechAudio, SpeechFinished, SpeechStarted
from adapters.errors import GenerationError
from adapters.events import Started, TextDelta
from proxy.access.config import KeyConfig
from proxy.access.limits import Bucket, Limits, to_duration
from proxy.audio.encode import Encoder
from proxy.config import Config, ServerConfig
from proxy.errors import RateLimitError

KEY = "limited-key-0123456789"
HEADERS = {"x-api-key": KEY}
CHAT = "/v1/chat/completions"
SPOKEN = SpeechFinished(input_tokens=5, output_tokens=7, seconds=0.5)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def wav() -> bytes:
    encoder = Encoder("wav", 16_000)
    return encoder.encode(sine(1.0), is_all=True) + encoder.finish()


def limited(**limits: Any) -> Config:
    return Config(server=ServerConfig(keys=(KeyConfig(name="guest", key=KEY, **limits),)))


# --- buckets ---


def test_bucket_refills_evenly():
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert (bucket.units, bucket.seconds_until(1), bucket.seconds_until(60)) == (0, 1, 60)
    clock.now += 1.5
    assert bucket.units == pytest.approx(1.5)
    clock.now += 3600
    assert bucket.units == 60


def test_bucket_with_another_limit_keeps_what_was_taken():
    bucket = Bucket(60, Clock())
    bucket.take(50)
    bucket.change(600)
    assert (bucket.units, bucket.per_minute) == (550, 600)


def test_bucket_that_owes_tokens_refuses_until_they_are_back():
    clock = Clock()
    limits = Limits("guest", tokens_per_minute=600, clock=clock)
    with limits.answer_in_progress():
        limits.take_tokens(1200)
    with pytest.raises(RateLimitError) as refused, limits.answer_in_progress():
        pass
    assert refused.value.retry_after == pytest.approx(60.1)
    clock.now += 60.2
    with limits.answer_in_progress():
        pass


def test_refused_request_is_not_counted():
    clock = Clock()
    limits = Limits("guest", requests_per_minute=2, clock=clock)
    limits.take_request()
    limits.take_request()
    for _ in range(5):
        with pytest.raises(RateLimitError):
            limits.take_request()
    clock.now += 30.01
    limits.take_request()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0501, "51ms"), (1, "1s"), (12.5, "12.5s"), (60, "1m0s"), (366.25, "6m6.25s")],
)
def test_duration_has_openai_s_form(seconds: float, text: str):
    assert to_duration(seconds) == text


# --- requests ---


async def test_request_beyond_the_limit_is_a_429():
    async with http_client(ScriptedBackend(), config=limited(requests_per_minute=2)) as client:
        answers = [await client.post(CHAT, json=chat(), headers=HEADERS) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    remaining = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert remaining == ["1", "0", "0"]
    assert answers[2].headers["x-ratelimit-limit-requests"] == "2"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    error = answers[2].json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert "'guest'" in error["message"]


async def test_limit_is_in_the_words_of_the_dialect():
    async with http_client(ScriptedBackend(), config=limited(requests_per_minute=1)) as client:
        await client.get("/v1/models", headers=HEADERS)
        body = {**chat(), "max_tokens": 9}
        anthropic = await client.post("/v1/messages", json=body, headers=HEADERS)
        ollama = await client.post("/api/chat", json=chat(), headers=HEADERS)
    assert (anthropic.status_code, ollama.status_code) == (429, 429)
    assert anthropic.json()["error"]["type"] == "rate_limit_error"
    assert list(ollama.json()) == ["error"]


async def test_openai_client_reads_limits_and_retries_after_them():
    async with openai_client(ScriptedBackend(), config=limited(requests_per_minute=1)) as sdk:
        sdk = sdk.with_options(api_key=KEY)
        body: Any = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        first = await sdk.chat.completions.with_raw_response.create(**body)
        assert re.fullmatch(r"1m0s|5\d(\.\d+)?s", first.headers["x-ratelimit-reset-requests"])
        with pytest.raises(openai.RateLimitError) as refused:
            await sdk.chat.completions.create(**body)
    assert refused.value.code == "rate_limit_exceeded"


async def test_public_routes_and_other_keys_are_not_limited():
    keys = (
        KeyConfig(name="guest", key=KEY, requests_per_minute=1),
        KeyConfig(name="other", key="other-key-0123456789"),
    )
    config = Config(server=ServerConfig(keys=keys))
    async with http_client(ScriptedBackend(), config=config) as client:
        for _ in range(3):
            assert (await client.get("/livez", headers=HEADERS)).status_code == 200
        other = await client.get("/v1/models", headers={"x-api-key": "other-key-0123456789"})
        guest = await client.get("/v1/models", headers=HEADERS)
    assert (guest.status_code, other.status_code) == (200, 200)
    assert "x-ratelimit-limit-requests" not in other.headers


# --- tokens ---


async def test_tokens_of_prompt_and_answer_count():
    async with http_client(ScriptedBackend(), config=limited(tokens_per_minute=6)) as client:
        answers = [await client.post(CHAT, json=chat(), headers=HEADERS) for _ in range(3)]
        listed = await client.get("/v1/models", headers=HEADERS)
    assert [answer.status_code for answer in answers] == [200, 200, 429]  # 5 tokens each.
    assert [a.headers["x-ratelimit-remaining-tokens"] for a in answers] == ["1", "0", "0"]
    assert answers[2].json()["error"]["type"] == "tokens"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 50
    assert listed.status_code == 200


async def test_tokens_of_embeddings_count():
    async with http_client(ScriptedBackend(), config=limited(tokens_per_minute=4)) as client:
        body = {"model": "m", "input": ["a", "b"]}
        statuses = [
            (await client.post("/v1/embeddings", json=body, headers=HEADERS)).status_code
            for _ in range(2)
        ]
    assert statuses == [200, 429]


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/audio/speech", {"json": {"model": "speaker", "input": "Hello"}}),
        ("/v1/audio/transcriptions", {"data": {"model": "listener"}}),
        ("/v1/audio/translations", {"data": {"model": "listener", "stream": "true"}}),
    ],
)
async def test_tokens_of_audio_count(path: str, form: dict[str, Any]):
    sound = SpeechStarted(rate=24_000), SpeechAudio(sine(0.5, 24_000)), SPOKEN
    files: Any = {"files": {"file": ("a.wav", wav(), "audio/wav")}} if "data" in form else {}
    backend, config = ScriptedAudio(speech=sound), limited(tokens_per_minute=5)
    async with http_client(backend, config=config) as client:
        answers = [await client.post(path, headers=HEADERS, **form, **files) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].json()["error"]["type"] == "tokens"


async def test_streamed_answer_beyond_the_limit_is_a_429_and_no_stream():
    async with http_client(ScriptedBackend(), config=limited(tokens_per_minute=5)) as client:
        body = chat(stream=True)
        first = await client.post(CHAT, json=body, headers=HEADERS)
        second = await client.post(CHAT, json=body, headers=HEADERS)
    assert first.text.endswith("data: [DONE]\n\n")
    assert (second.status_code, second.headers["content-type"]) == (429, "application/json")


async def test_background_answer_beyond_the_limit_is_a_429(tmp_path: Path):
    keys = (KeyConfig(name="guest", key=KEY, tokens_per_minute=5),)
    config = Config(server=ServerConfig(keys=keys, state_folder=str(tmp_path)))
    async with http_client(ScriptedBackend(), config=config) as client:
        await client.post(CHAT, json=chat(), headers=HEADERS)
        body = {"model": "m", "input": "Hi", "background": True}
        response = await client.post("/v1/responses", json=body, headers=HEADERS)
    assert response.status_code == 429


async def test_answer_that_ends_early_counts_as_far_as_it_came():
    pieces = [TextDelta("a")] * 50
    backend = ScriptedBackend((Started(), *pieces, GenerationError("broken")))
    async with http_client(backend, config=limited(tokens_per_minute=40)) as client:
        first = await client.post(CHAT, json=chat(stream=True), headers=HEADERS)
        assert "broken" in first.text
        assert (await client.post(CHAT, json=chat(), headers=HEADERS)).status_code == 429


async def test_request_that_is_refused_costs_no_tokens():
    async with http_client(ScriptedBackend(), config=limited(tokens_per_minute=5)) as client:
        refused = await client.post(CHAT, json=chat(model="nope"), headers=HEADERS)
        answered = await client.post(CHAT, json=chat(), headers=HEADERS)
    assert (refused.status_code, answered.status_code) == (404, 200)


# --- answers in progress ---


async def test_answer_beyond_the_concurrent_ones_is_a_429():
    hanging = ScriptedBackend((Started(), TextDelta("a"), HANG, DONE))
    async with http_client(hanging, config=limited(concurrent=1)) as client:
        first = asyncio.create_task(client.post(CHAT, json=chat(), headers=HEADERS))
        await hanging.began.wait()
        second = await client.post(CHAT, json=chat(), headers=HEADERS)
        listed = await client.get("/v1/models", headers=HEADERS)
        first.cancel()
        await hanging.closed.wait()
        hanging.script = (Started(), TextDelta("a"), DONE)
        third = await client.post(CHAT, json=chat(), headers=HEADERS)
    assert second.status_code == 429
    assert second.headers["retry-after"] == "1"
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
    assert (listed.status_code, third.status_code) == (200, 200)


async def test_background_responses_that_come_together_are_refused_before_they_are_queued():
    """All pass the first check before one of them is written."""
    hanging = ScriptedBackend((Started(), TextDelta("a"), HANG, DONE))
    body = {"model": "m", "input": "Hi", "background": True}
    async with http_client(hanging, config=limited(concurrent=2)) as client:
        sent = [client.post("/v1/responses", json=body, headers=HEADERS) for _ in range(6)]
        answers = await asyncio.gather(*sent)
        queued = [answer.json()["id"] for answer in answers if answer.status_code == 200]
        for name in queued:
            ended = await client.post(f"/v1/responses/{name}/cancel", headers=HEADERS)
            assert ended.json()["status"] == "cancelled"
        again = await client.post("/v1/responses", json=body, headers=HEADERS)
        await client.post(f"/v1/responses/{again.json()['id']}/cancel", headers=HEADERS)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]
    assert again.status_code == 200


async def test_several_prompts_of_a_request_are_one_answer():
    async with http_client(ScriptedBackend(), config=limited(concurrent=1)) as client:
        body = {"model": "m", "prompt": ["a", "b", "c"]}
        response = await client.post("/v1/completions", json=body, headers=HEADERS)
    assert response.status_code == 200


async def test_page_can_read_the_limits():
    async with http_client(ScriptedBackend(), config=limited(requests_per_minute=9)) as client:
        headers = HEADERS | {"origin": BASE}
        response = await client.get("/v1/models", headers=headers)
    exposed = response.headers["access-control-expose-headers"]
    assert "x-ratelimit-remaining-requests" in exposed
