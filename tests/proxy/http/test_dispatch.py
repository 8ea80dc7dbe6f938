"""Fast dispatch and Litestar's routing give the same answers."""

import re
from typing import Any

import httpx2
import pytest
from fakes.scripted_backend import ScriptedBackend, chat, http_client
from litestar.routes import HTTPRoute

from adapters.errors import BackendBusyError
from adapters.events import Started, TextDelta
from proxy.config import Config, ServerConfig
from proxy.routes import routing

URL = "/v1/chat/completions"
CHANGING = re.compile(r"chatcmpl-\w+|\"created\":\d+|req_\w+")
REQUESTS: dict[str, dict[str, Any]] = {
    "whole": {"json": chat(foo=1)},
    "streamed": {"json": chat(stream=True)},
    "of another type": {"content": b"{}", "headers": {"content-type": "text/plain"}},
    "no JSON": {"content": b"{"},
    "too large": {"content": b" " * 2000},
    "unknown model": {"json": chat(model="absent")},
    "impossible": {"json": chat(modalities=["audio"])},
}


def told(response: httpx2.Response) -> tuple[int, str, str]:
    """All of it but what no two answers have in common."""
    headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    return response.status_code, CHANGING.sub("", headers), CHANGING.sub("", response.text)


async def both(backend: ScriptedBackend, **request: Any) -> list[tuple[int, str, str]]:
    """Answers to the same request; a slash at the end is one that only Litestar passes over."""
    config = Config(server=ServerConfig(max_body_bytes=1000))
    async with http_client(backend, config=config) as client:
        return [told(await client.post(url, **request)) for url in (URL, f"{URL}/")]


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_ways_end_in_the_same_answer(name: str):
    short, long = await both(ScriptedBackend(), **REQUESTS[name])
    assert short == long


@pytest.mark.parametrize("when", [(), (Started(), TextDelta("Hel"))], ids=["at once", "later"])
@pytest.mark.parametrize("stream", [False, True])
async def test_both_ways_end_in_the_same_error(when: tuple[Any, ...], stream: bool):
    busy = ScriptedBackend(script=(*when, BackendBusyError("Later.", retry_after=3)))
    short, long = await both(busy, json=chat(stream=stream))
    assert short == long
    assert short[0] == (200 if stream and when else 429)


async def test_defect_is_told_without_its_words_on_both_ways():
    short, long = await both(ScriptedBackend(script=(ValueError("secret"),)), json=chat())
    assert short == long
    assert short[0] == 500
    assert "secret" not in short[2]


async def test_allowed_methods_have_head_where_they_have_get():
    async with http_client(ScriptedBackend()) as client:
        methods = "GET, HEAD, OPTIONS, POST"
        assert (await client.options(URL)).headers["allow"] == methods
        for path, allow in ((URL, methods), ("/v1/models/m", "GET, HEAD, OPTIONS")):
            for method in ("PATCH", "DELETE"):
                response = await client.request(method, path)
                assert (response.status_code, response.headers["allow"]) == (405, allow)
        assert (await client.options("/v1/models")).headers["allow"] == "GET, HEAD, OPTIONS"
        assert (await client.head("/v1/completions")).status_code == 405


def test_every_route_of_a_model_is_dispatched_fast():
    fast = {
        route.path_format
        for route in routing().routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if "fast" in handler.opt
    }
    assert fast == {
        URL,
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/audio/models",
        "/v1/audio/voices",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/responses/input_tokens",
        "/v1/embeddings",
        "/v1/messages",
        "/api/chat",
        "/api/generate",
        "/api/mlx/generate",
    }
