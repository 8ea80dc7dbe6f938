"""Addresses and methods: `/`, HEAD, paths without `/v1`, and what `curl -d` sends."""

import re
from importlib.metadata import version
from typing import Any

import httpx2
import pytest
from fakes.scripted_backend import BASE, ScriptedBackend, chat, http_client
from servers.served import served

GETS = ["/", "/health", "/v1/models", "/v1/models/m", "/api/health", "/openapi.json"]
FORM = {"content-type": "application/x-www-form-urlencoded"}


async def test_index_tells_name_and_version():
    async with http_client(ScriptedBackend()) as client:
        response = await client.get("/")
    assert response.status_code == 200
    assert response.json() == {"name": "Tandem", "version": version("tandem-proxy")}


@pytest.mark.parametrize("accept", ["text/html", "text/html,application/xhtml+xml,*/*;q=0.8"])
async def test_index_is_a_page_for_browsers(accept: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.get("/", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["vary"] == "Accept"
    assert "<title>Tandem</title>" in response.text
    assert "http://" not in response.text.replace(BASE, "")  # nothing is loaded from elsewhere
    assert re.search(r"<script(?! [^>]*src=\"/page/)", response.text) is None


@pytest.mark.parametrize("url", GETS)
async def test_head_is_get_without_a_body(url: str):
    async with http_client(ScriptedBackend()) as client:
        got, head = await client.get(url), await client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.headers["x-request-id"] != got.headers["x-request-id"]


@pytest.mark.parametrize(
    ("url", "status"), [("/nope", 404), ("/v1/models/nope", 404), ("/v1/embeddings", 405)]
)
async def test_head_has_the_status_of_get(url: str, status: int):
    async with http_client(ScriptedBackend()) as client:
        head = await client.head(url)
    assert (head.status_code, head.content) == (status, b"")


@pytest.mark.slow
async def test_head_leaves_the_connection_usable():
    async with (
        served(ScriptedBackend()) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for url in GETS:
            assert (await client.head(url)).status_code == 200
            assert (await client.get(url)).content


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/embeddings", "/v1/embeddings"),
        ("/models", "/v1/models"),
        ("/models/m", "/v1/models/m"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/models", "/v1/models"),
        ("/openai/deployments/m/chat/completions", "/v1/chat/completions"),
        ("//v1/models", "/v1/models"),
        ("/chat", "/api/chat"),
        ("/v1/api/chat", "/api/chat"),
        ("/v1/health", "/health"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_bare_path_is_a_404_with_the_url_that_is_meant(path: str, meant: str, method: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.request(method, BASE + path, json=chat())
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "unknown_url")
    assert f" {BASE}{meant}" in error["message"]


@pytest.mark.parametrize("path", ["/nope", "/v1/nope", "/v1", "/v2/nope/" + "x/" * 3000])
async def test_path_that_resembles_nothing_gets_no_hint(path: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.get(path)
    assert response.status_code == 404
    assert (
        response.json()["error"]["message"] == "There is no such URL. GET /openapi.json lists all."
    )


async def test_slash_at_the_end_is_the_same_address():
    async with http_client(ScriptedBackend()) as client:
        assert (await client.get("/v1/models/")).status_code == 200


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/v1/audio/transcriptions", {"files": {"file": b""}, "data": {"model": "m"}}),
        ("/api/chat", {"content": b'{"model": "nope"}', "headers": FORM}),
        ("/v1/messages", {"json": {}}),
        ("/v1/models", {"json": {}}),
    ],
    ids=["type of content", "JSON of curl", "dialect of errors", "method"],
)
async def test_slash_at_the_end_changes_no_gate_and_no_error(path: str, request_: dict[str, Any]):
    async with http_client(ScriptedBackend()) as client:
        answers = [await client.post(BASE + path + end, **request_) for end in ("", "/")]
    one, other = [(r.status_code, re.sub("req_[0-9a-f]+", "", r.text)) for r in answers]
    assert other == one


API: dict[str, dict[str, Any]] = {
    "/api/chat": chat(stream=False),
    "/api/mlx/generate": {"model_id": "m", "prompt": "Hi"},
    "/api/route": chat(),
}


NAMED_BY_PROGRAMS = [
    "application/x-www-form-urlencoded",  # curl -d, urllib
    "application/octet-stream",  # aiohttp, with bytes: LiteLLM's asynchronous streams
    "text/plain;charset=UTF-8",  # fetch of Node, with a string
    "",
]
"""Content types of JSON, from programs that name none themselves."""


@pytest.mark.parametrize("named", NAMED_BY_PROGRAMS)
@pytest.mark.parametrize("url", API)
async def test_json_of_any_type_is_taken_below_api(url: str, named: str):
    headers = {"content-type": named}
    async with http_client(ScriptedBackend(kind="mlx")) as client:
        body = httpx2.Request("POST", BASE, json=API[url]).content
        assert (await client.post(url, content=body, headers=headers)).status_code == 200
        for name, value in (("origin", BASE), ("sec-fetch-site", "same-origin")):
            page = await client.post(url, content=body, headers={**headers, name: value})
            assert page.status_code == 415
        no_json = await client.post(url, content=b"model=m", headers=headers)
        assert no_json.status_code == 400


async def test_json_of_curl_is_refused_elsewhere():
    async with http_client(ScriptedBackend()) as client:
        response = await client.post("/v1/chat/completions", content=b"{}", headers=FORM)
    assert response.status_code == 415


@pytest.mark.parametrize("host", ["host.docker.internal:8006", "tandem.lan"])
async def test_refused_host_is_named_with_the_setting(host: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.get("/v1/models", headers={"host": host})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (403, "forbidden")
    assert f"'{host}'" in error["message"]
    assert "`server.allowed_hosts`" in error["message"]
