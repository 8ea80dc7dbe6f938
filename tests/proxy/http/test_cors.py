"""Web pages, desktop applications and editors: CORS on answers, streams, errors and preflights."""

from typing import Any

import httpx2
import pytest
from fakes.scripted_backend import DEFAULTS, ScriptedBackend, chat, http_client

from adapters.errors import BackendBusyError
from adapters.events import Started, TextDelta
from proxy.config import Config, ServerConfig

PAGE = "http://localhost:5173"
CHAT = "/v1/chat/completions"


def allowing(*origins: str) -> Config:
    return Config(server=ServerConfig(allowed_origins=origins))


def is_readable(response: httpx2.Response, origin: str = PAGE) -> bool:
    """Return true if a browser shows the answer to a page of `origin`."""
    return (
        response.headers.get("access-control-allow-origin") == origin
        and "Origin" in response.headers["vary"]
    )


REQUESTS: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "whole": (200, "POST", CHAT, {"json": chat()}),
    "streamed": (200, "POST", CHAT, {"json": chat(stream=True)}),
    "completions": (200, "POST", "/v1/completions", {"json": {"model": "m", "prompt": "Hi"}}),
    "embeddings": (200, "POST", "/v1/embeddings", {"json": {"model": "m", "input": "Hi"}}),
    "Ollama's chat": (200, "POST", "/api/chat", {"json": chat()}),
    "hybrid": (200, "POST", "/api/chat", {"json": {"model_id": "m", "prompt": "Hi"}}),
    "models": (200, "GET", "/v1/models", {}),
    "health": (200, "GET", "/health", {}),
    "index": (200, "GET", "/", {}),
    "invalid": (400, "POST", CHAT, {"json": chat(n=0)}),
    "no JSON": (400, "POST", "/api/chat", {"content": b"{"}),
    "unknown model": (404, "POST", CHAT, {"json": chat(model="x")}),
    "unknown URL": (404, "GET", "/nope", {}),
    "method": (405, "DELETE", CHAT, {}),
    "type": (415, "POST", CHAT, {"content": b"x", "headers": {"content-type": "text/plain"}}),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_every_answer_to_an_allowed_origin_can_be_read(name: str):
    status, method, url, extra = REQUESTS[name]
    headers = {"origin": PAGE} | extra.get("headers", {})
    async with http_client(ScriptedBackend()) as client:
        response = await client.request(method, url, **(extra | {"headers": headers}))
        assert response.status_code == status
        assert is_readable(response)
        assert "access-control-allow-origin" not in (await client.request(method, url)).headers


@pytest.mark.parametrize("when", [(), (Started(), TextDelta("Hel"))], ids=["before", "after"])
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_of_backends_can_be_read(when: tuple[Any, ...], stream: bool):
    busy = ScriptedBackend(script=(*when, BackendBusyError("Later.", retry_after=3)))
    async with http_client(busy) as client:
        response = await client.post(CHAT, json=chat(stream=stream), headers={"origin": PAGE})
    assert is_readable(response)
    assert "Later." in response.text


async def test_page_can_read_the_headers_of_an_answer():
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(CHAT, json=chat(foo=1), headers={"origin": PAGE})
    exposed = response.headers["access-control-expose-headers"].split(", ")
    tandems = [name for name in response.headers if name.startswith("x-")]
    assert "x-tandem-ignored" in tandems
    assert {*tandems, "retry-after", "x-should-retry", "x-request-id"} <= set(exposed)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost:8443",
        "http://127.0.0.1:3000",
        "http://0.0.0.0:3000",
        "http://[::1]:3000",
        "app://obsidian.md",
        "app://-",
        "file://",
        "tauri://localhost",
        "vscode-webview://1h3k2g6s0o9",
        "vscode-file://vscode-app",
    ],
)
async def test_default_allows_this_machines_pages_and_applications(origin: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(CHAT, json=chat(), headers={"origin": origin})
    assert response.status_code == 200
    assert is_readable(response, origin)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.com",
        "http://tauri.localhost.evil.com",
        "http://192.168.1.5:3000",
        "null",
        "",
        "chrome-extension://abc",
        "https://evil.com/app://x",
        "xapp://obsidian.md",
        "app://x, app://y",
        "app://x@evil.com",
    ],
)
async def test_page_of_another_origin_is_refused_and_cannot_read_why(origin: str):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(CHAT, json=chat(), headers={"origin": origin})
        preflight = await client.options(
            CHAT, headers={"origin": origin, "access-control-request-method": "POST"}
        )
    assert backend.requests == []
    for refusal in (response, preflight):
        assert refusal.status_code == 403
        assert not [name for name in refusal.headers if name.startswith("access-control-")]
        assert "`server.allowed_origins`" in refusal.json()["error"]["message"]


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("https://chat.example", "https://chat.example", True),
        ("https://chat.example", "HTTPS://Chat.Example", True),
        ("https://chat.example", "https://chat.example:8443", False),
        ("https://chat.example", "http://chat.example", False),
        ("https://chat.example", "https://chatXexample", False),
        ("https://*.example", "https://a.b.example", True),
        ("https://*.example", "https://example", False),
        ("https://*.example", "https://evil.com/.example", False),
        ("https://*.example", "https://evil.com#.example", False),
        ("http://192.168.1.5:*", "http://192.168.1.5:3000", True),
        ("http://192.168.1.5:*", "http://192.168.1.50:3000", False),
        ("chrome-extension://*", "chrome-extension://abc", True),
        ("chrome-extension://*", "app://abc", False),
        ("*://localhost", "capacitor://localhost", True),
        ("*", "https://anything.example", True),
        ("*", "null", True),
    ],
)
async def test_pattern_of_the_configuration(pattern: str, origin: str, allowed: bool):
    async with http_client(ScriptedBackend(), config=allowing(pattern)) as client:
        response = await client.get("/v1/models", headers={"origin": origin})
    assert response.status_code == (200 if allowed else 403)
    assert is_readable(response, origin) if allowed else "vary" not in response.headers


@pytest.mark.parametrize(
    ("url", "methods"),
    [
        (CHAT, {"GET", "HEAD", "OPTIONS", "POST"}),
        ("/v1/chat/completions/chatcmpl-1", {"DELETE", "GET", "HEAD", "OPTIONS", "POST"}),
        ("/api/chat", {"OPTIONS", "POST"}),
        ("/v1/models", {"GET", "HEAD", "OPTIONS"}),
        ("/v1/models/owner/m", {"GET", "HEAD", "OPTIONS"}),
        ("/", {"GET", "HEAD", "OPTIONS"}),
        ("/nope", {"DELETE", "GET", "HEAD", "OPTIONS", "POST"}),
    ],
)
async def test_preflight(url: str, methods: set[str]):
    asked = "authorization, content-type, x-stainless-os"
    headers = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
        "access-control-request-private-network": "true",
    }
    async with http_client(ScriptedBackend()) as client:
        response = await client.options(url, headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    assert is_readable(response)
    told = response.headers
    assert set(told["access-control-allow-methods"].split(", ")) == methods
    assert told["access-control-allow-headers"] == asked
    assert told["access-control-allow-private-network"] == "true"
    assert int(told["access-control-max-age"]) > 0


async def test_preflight_answers_only_what_is_asked():
    headers = {"origin": PAGE, "access-control-request-method": "GET"}
    async with http_client(ScriptedBackend()) as client:
        told = (await client.options("/v1/models", headers=headers)).headers
        assert "access-control-allow-private-network" not in told
        assert "access-control-allow-headers" not in told
        plain = await client.options(CHAT)
    assert (plain.status_code, plain.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


@pytest.mark.parametrize("origin", ["https://chat.example/", "chat.example", "https://a.example/x"])
def test_setting_that_is_no_origin_is_refused(origin: str):
    with pytest.raises(ValueError, match="is no origin"):
        allowing(origin)


def test_default_is_not_for_websites():
    assert not [o for o in DEFAULTS.server.allowed_origins if o.startswith(("http", "*"))]
