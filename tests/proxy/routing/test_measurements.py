"""Measurements of answers, and their comparison."""

import asyncio
from typing import Any

import pytest
from fakes.scripted_backend import DONE, HANG, HELLO, ScriptedBackend, chat, http_client

from adapters.backend import Model
from adapters.errors import GenerationError
from adapters.events import (
    Finished,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    Timings,
    Usage,
)
from proxy.config import Config, ModelConfig
from proxy.models.registry import Deployment
from proxy.record import Attempt
from proxy.routing.measurements import Figures, Measurement, Measurements, to_measurement

URL = "/api/performance/comparison"
BOTH = [Deployment(backend="mlx", name="m"), Deployment(backend="ollama", name="m:1")]


def measured(**fields: Any) -> Measurement:
    usual: dict[str, Any] = {
        "backend": "mlx",
        "name": "m",
        "prompt_tokens": 10,
        "crowd": 1,
        "ttft": 1.0,
        "tokens_per_second": 100.0,
        "memory": None,
    }
    return Measurement(**usual | fields)


def known(measurements: Measurements, prompt_tokens: int = 10, crowd: int = 1) -> Figures:
    figures = measurements.figures("mlx", "m", prompt_tokens, crowd)
    assert figures is not None
    return figures


def test_newer_answers_have_more_weight():
    measurements = Measurements()
    for ttft, speed in ((1.0, 100.0), (2.0, 200.0), (3.0, 300.0), (2.0, 200.0), (6.0, 600.0)):
        measurements.record(measured(ttft=ttft, tokens_per_second=speed))
    figures = known(measurements)
    assert figures.answers == 5
    assert figures.ttft_s == pytest.approx(3)  # The first four had a mean of 2.
    assert figures.tokens_per_second == pytest.approx(300)


def test_unknown_figures_of_an_answer_change_nothing():
    measurements = Measurements()
    for speed, memory in ((None, None), (100.0, 5), (None, None)):
        measurements.record(measured(tokens_per_second=speed, memory=memory))
    figures = known(measurements)
    assert (figures.tokens_per_second, figures.memory_bytes) == (100.0, 5)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ({"prompt_tokens": 1}, {"prompt_tokens": 128}, True),
        ({"prompt_tokens": 128}, {"prompt_tokens": 129}, False),
        ({"prompt_tokens": 32769}, {"prompt_tokens": 900_000}, True),
        ({"crowd": 1}, {"crowd": 2}, False),
        ({"crowd": 2}, {"crowd": 4}, True),
        ({"crowd": 9}, {"crowd": 90}, True),
        ({"name": "m"}, {"name": "other"}, False),
        ({"cold": False}, {"cold": True}, False),
    ],
)
def test_answers_are_compared_within_their_bucket(one: Any, two: Any, same: bool):
    measurements = Measurements()
    for fields in (one, two):
        measurements.record(measured(**fields))
    rows = measurements.comparison([BOTH[0], Deployment(backend="mlx", name="other")])
    assert [row.answers for row in rows] == ([2] if same else [1, 1])


def test_comparison_lists_backends_by_bucket():
    measurements = Measurements()
    for prompt_tokens in (900, 10):
        for deployment in BOTH:
            measurements.record(
                measured(
                    backend=deployment.backend, name=deployment.name, prompt_tokens=prompt_tokens
                )
            )
    rows = measurements.comparison(BOTH)
    assert [(row.prompt_tokens_to, row.backend) for row in rows] == [
        (128, "mlx"),
        (128, "ollama"),
        (2048, "mlx"),
        (2048, "ollama"),
    ]


def finished(tokens: int, choice: int = 0) -> Finished:
    return Finished("stop", Usage(prompt_tokens=7, completion_tokens=tokens), choice=choice)


def test_attempt_is_complete_once_all_its_choices_have_ended():
    attempt = Attempt("mlx", "m", 2)
    for event in (Started(), TextDelta("a"), finished(3)):
        attempt.note(event)
    assert not attempt.is_complete
    attempt.note(finished(5, choice=1))
    assert attempt.is_complete
    found = to_measurement(attempt, 9)
    assert (found.prompt_tokens, found.memory) == (7, 9)
    assert found.tokens_per_second is not None
    assert found.tokens_per_second > 0


@pytest.mark.parametrize("event", [ReasoningDelta("hm"), TextDelta("a")])
def test_first_piece_ends_the_wait(event: Any):
    attempt = Attempt("mlx", "m")
    attempt.note(Started())
    assert attempt.first_at is None
    attempt.note(event)
    assert attempt.first_at is not None


def test_speed_of_an_answer_that_comes_at_once_is_that_of_its_tokens():
    """A checked answer, or a call that is read as a whole."""
    times = iter([0.0, 0.5, 3.0, 3.0])
    attempt = Attempt("ollama", "m", clock=lambda: next(times))
    usage = Usage(prompt_tokens=7, completion_tokens=21)
    timings = Timings(load=0, prompt=10**9, answer=2 * 10**9)
    for event in (Started(), TextDelta("{}"), Finished("stop", usage, timings=timings)):
        attempt.note(event)
    found = to_measurement(attempt, None)
    assert (found.ttft, found.tokens_per_second) == (1.0, 10.0)


def test_answer_without_text_has_no_speed():
    attempt = Attempt("mlx", "m")
    attempt.note(finished(0))
    assert to_measurement(attempt, None).tokens_per_second is None


def test_restarted_attempt_leaves_no_measurement():
    measurements, attempt = Measurements(), Attempt("mlx", "m")
    for event in (Started(), TextDelta("a"), Restarted(), finished(3)):
        attempt.note(event)
    measurements.read(attempt)
    assert measurements.comparison(BOTH) == []


def test_cold_answers_do_not_change_warm_figures():
    measurements = Measurements()
    for cold, ttft in ((True, 9.0), (False, 1.0)):
        measurements.record(measured(cold=cold, ttft=ttft))
    assert known(measurements).ttft_s == 1.0
    rows = measurements.comparison(BOTH)
    assert [(row.cold, row.ttft_s) for row in rows] == [(False, 1.0), (True, 9.0)]


async def test_cold_answers_are_listed_apart():
    backend = ScriptedBackend((Started(cold=True), TextDelta("a"), DONE))
    async with http_client(backend) as client:
        await client.post("/v1/chat/completions", json=chat())
        (model,) = (await client.get(URL)).json()["models"]
    assert [row["cold"] for row in model["live"]] == [True]


async def test_fallback_backend_is_measured():
    mlx = ScriptedBackend((GenerationError("It broke."),), kind="mlx")
    async with http_client(mlx, ScriptedBackend(kind="ollama")) as client:
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        (model,) = (await client.get(URL)).json()["models"]
    assert [row["backend"] for row in model["live"]] == ["ollama"]


async def test_echoed_prompt_is_not_measured():
    async with http_client(ScriptedBackend()) as client:
        body = {"model": "m", "prompt": "Hi", "echo": True}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
        assert (await client.get(URL)).json() == {"models": []}


async def test_every_complete_answer_is_measured():
    mlx = ScriptedBackend(kind="mlx", models=[Model(name="m", quantization="4-bit")])
    ollama = ScriptedBackend(kind="ollama", models=[Model(name="m:1", quantization="Q4_K_M")])
    both = Config(models={"fast": ModelConfig(names={"mlx": "m", "ollama": "m:1"})})
    async with http_client(mlx, ollama, config=both) as client:
        assert (await client.get(URL)).json() == {"models": []}
        for model, stream in (("fast", True), ("ollama/fast", False), ("m", False)):
            body = chat(model=model, stream=stream)
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        models = (await client.get(URL)).json()["models"]
    assert [model["model_id"] for model in models] == ["fast"]
    assert [each["quantization"] for each in models[0]["backends"]] == ["4-bit", "Q4_K_M"]
    assert [(row["backend"], row["answers"]) for row in models[0]["live"]] == [
        ("mlx", 2),
        ("ollama", 1),
    ]
    row = models[0]["live"][0]
    assert row["ttft_s"] > 0
    assert (row["prompt_tokens_to"], row["answers_at_once_to"]) == (128, 1)


@pytest.mark.parametrize("step", [GenerationError("It broke."), HANG])
async def test_incomplete_answer_is_not_measured(step: Any):
    backend = ScriptedBackend((Started(), TextDelta("a"), step))
    async with http_client(backend) as client:
        posting = asyncio.create_task(client.post("/v1/chat/completions", json=chat()))
        await backend.began.wait()
        posting.cancel()
        await asyncio.wait((posting,))
        assert (await client.get(URL)).json() == {"models": []}


async def test_concurrent_answers_are_counted():
    backend = ScriptedBackend((Started(), HANG))
    async with http_client(backend) as client:
        waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat()))
        await backend.began.wait()
        backend.script = (*HELLO[:-1], DONE)
        await client.post("/v1/chat/completions", json=chat())
        waiting.cancel()
        await asyncio.wait((waiting,))
        (model,) = (await client.get(URL)).json()["models"]
    assert [row["answers_at_once_to"] for row in model["live"]] == [4]
