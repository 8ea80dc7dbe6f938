"""Values and limits that clients of local servers rely on, over HTTP, in every dialect."""

from collections.abc import Iterator
from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend, chat, http_client

from adapters.request import GenerationRequest

CHAT = "/v1/chat/completions"
URLS: dict[str, dict[str, Any]] = {
    CHAT: chat(),
    "/v1/completions": {"model": "m", "prompt": "Hi"},
    "/api/chat": {"model_id": "m", "prompt": "Hi"},
}


async def translated(url: str, **fields: Any) -> GenerationRequest:
    """The request that reaches the backend."""
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(url, json=URLS[url] | fields)
    assert response.status_code == 200, response.text
    (request,) = backend.requests
    return request


async def refused(url: str, **fields: Any) -> dict[str, Any]:
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(url, json=URLS[url] | fields)
    assert (response.status_code, backend.requests) == (400, [])
    return response.json()["error"]


def with_options(url: str, name: str, value: object) -> Iterator[dict[str, Any]]:
    yield {name: value}
    yield {"options": {"num_predict" if name == "max_tokens" else name: value}}


# --- stop strings ---


@pytest.mark.parametrize("url", URLS)
async def test_sixty_four_stop_strings_of_a_thousand_characters_are_taken(url: str):
    stops = [f"{at:04}".ljust(1000, "x") for at in range(64)]
    for fields in with_options(url, "stop", stops):
        assert (await translated(url, **fields)).stop == tuple(stops)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    ("stop", "param"), [(["x"] * 65, "stop"), (["x" * 1001], "stop[0]"), ("x" * 1001, "stop")]
)
async def test_more_or_longer_stop_strings_are_refused(url: str, stop: object, param: str):
    assert (await refused(url, stop=stop))["param"] == param
    assert (await refused(url, options={"stop": stop}))["param"] == "options.stop"


# --- "off" and "no limit" ---


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("value", [0, -1, 0.0, -1.0])
async def test_top_k_of_zero_or_less_draws_from_all_tokens(url: str, value: float):
    for fields in with_options(url, "top_k", value):
        assert (await translated(url, **fields)).sampling.top_k == 0


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("value", [-1, -2, -1.0])
async def test_negative_limit_is_no_limit(url: str, value: float):
    for fields in with_options(url, "max_tokens", value):
        assert (await translated(url, **fields)).max_tokens is None


async def test_negative_max_completion_tokens_is_no_limit_and_stronger_than_max_tokens():
    assert (await translated(CHAT, max_completion_tokens=-1, max_tokens=5)).max_tokens is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"top_k": -2}, "top_k"),
    ],
    ids=str,
)
async def test_value_without_a_meaning_is_refused(fields: dict[str, Any], param: str):
    assert (await refused(CHAT, **fields))["param"] == param


# --- integers ---


@pytest.mark.parametrize("url", URLS)
async def test_float_without_a_fraction_is_an_integer(url: str):
    request = await translated(url, seed=1.0, max_tokens=100.0, top_k=5.0, num_ctx=512.0)
    assert (request.sampling.seed, request.max_tokens, request.sampling.top_k) == (1, 100, 5)
    assert request.num_ctx == 512
    request = await translated(url, options={"seed": 2.0, "num_predict": 9.0, "num_gpu": 1.0})
    assert (request.sampling.seed, request.max_tokens) == (2, 9)
    assert repr(request.options) == "{'num_gpu': 1}"


async def test_float_without_a_fraction_is_an_integer_beside_maps_and_floats():
    request = await translated(
        CHAT, n=1.0, logit_bias={"5": 1.0}, temperature=1.0, logprobs=True, top_logprobs=2.0
    )
    assert request.sampling.logit_bias == {5: 1.0}
    assert (request.sampling.temperature, request.top_logprobs) == (1.0, 2)


@pytest.mark.parametrize("name", ["seed", "max_tokens", "n", "top_k"])
async def test_float_with_a_fraction_is_refused(name: str):
    assert (await refused(CHAT, **{name: 1.5}))["param"] == name
    assert (await refused(CHAT, **{name: 1.5, "temperature": 1.0}))["param"] == name
