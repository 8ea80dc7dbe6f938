"""The gates of all requests: host, origin, content type, encoding."""

import asyncio

import pytest
from anyio import sleep_forever
from fakes.scripted_backend import DEFAULTS, ScriptedBackend, chat, http_client

from proxy.config import Config, ServerConfig

PATHS = ["/health", "/v1/models", "/nope"]
OPEN = Config(server=ServerConfig(host="0.0.0.0"))
NAMED = Config(server=ServerConfig(host="tandem.lan", allowed_hosts=("Box.example",)))


async def status_with(headers: dict[str, str], config: Config = DEFAULTS) -> int:
    async with http_client(ScriptedBackend(), config=config) as client:
        answers = [await client.get(path, headers=headers) for path in PATHS]
        assert {a.status_code for a in answers} in ({200, 404}, {403})
        return answers[0].status_code


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9",
        "127.0.0.1:8006",
        "[::1]:8006",
        "[::1]",
        "localhost.",
        "localhost.:80",
    ],
)
async def test_own_host_is_let_in(host: str):
    assert await status_with({"host": host}) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:8006",
        "localhost.evil.com",
        "evil-localhost",
        "0.0.0.0",
        "0.0.0.0:8006",
        "[::]",
        "192.168.1.5",
        "box.local",
        "x@localhost",
        "localhost@evil.com",
        "localhost/x",
        "localhost:x",
        "localhost:99999",
        "localhost..",
        "[::1].evil.com",
        "[::1].evil.com:8006",
        "[::1]evil.com",
        "[::1",
        "::1",
        "[localhost]",
        "127.0.0.1]",
        "",
        " ",
    ],
)
async def test_foreign_host_is_refused(host: str):
    assert await status_with({"host": host}) == 403


async def test_two_hosts_are_refused():
    async with http_client(ScriptedBackend()) as client:
        headers = [("host", "localhost"), ("host", "localhost")]
        assert (await client.get("/health", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("host", "config", "status"),
    [
        ("tandem.lan:80", NAMED, 200),
        ("box.example", NAMED, 200),
        ("other.lan", NAMED, 403),
        ("192.168.1.5:8006", OPEN, 200),
        ("[fe80::1]", OPEN, 200),
        ("evil.com", OPEN, 403),
        ("0.0.0.0", OPEN, 403),
    ],
)
async def test_host_when_configured(host: str, config: Config, status: int):
    assert await status_with({"host": host}, config) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost:8080"}, 200),
        ({"origin": "https://127.0.0.1"}, 200),
        ({"origin": "http://[::1]:3000"}, 200),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "https://evil.com"}, 403),
        ({"origin": "http://localhost.evil.com"}, 403),
        ({"origin": "http://evil.com#localhost"}, 403),
        ({"origin": "file://localhost"}, 200),
        ({"origin": "chrome-extension://localhost"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:8080"}, 200),
    ],
    ids=str,
)
async def test_origin(headers: dict[str, str], status: int):
    assert await status_with(headers) == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://192.168.1.5:8006", 200),
        ("https://192.168.1.5:8006", 200),
        ("http://192.168.1.5:3000", 403),
        ("http://192.168.1.6:8006", 403),
        ("ftp://192.168.1.5:8006", 403),
    ],
)
async def test_origin_of_the_servers_own_page(origin: str, status: int):
    config = Config(server=ServerConfig(host="0.0.0.0"))
    assert await status_with({"host": "192.168.1.5:8006", "origin": origin}, config) == status


async def test_origin_when_configured():
    config = Config(server=ServerConfig(allowed_origins=("https://chat.example",)))
    assert await status_with({"origin": "https://chat.example"}, config) == 200
    assert await status_with({"origin": "https://chat.example.evil.com"}, config) == 403


async def test_foreign_page_is_refused_before_its_body_counts():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(
            "/v1/chat/completions", json=chat(), headers={"origin": "https://evil.com"}
        )
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "forbidden"
    assert response.headers["x-request-id"].startswith("req_")
    assert backend.requests == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "Application/JSON"}, 200),
        ({"content-type": "application/vnd.x+json"}, 200),
        ({}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "text/plain; application/json"}, 415),
        ({"content-type": "multipart/form-data"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": ""}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "identity"}, 200),
    ],
    ids=str,
)
async def test_content_type_and_encoding(headers: dict[str, str], status: int):
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(
            "/v1/chat/completions",
            content=b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}',
            headers=headers,
        )
    assert response.status_code == status
    if status == 415:
        assert response.json()["error"]["code"] == "unsupported_media_type"


async def test_another_request_is_answered_while_one_sends_its_body():
    is_sending = asyncio.Event()

    async def slow():
        yield b'{"model":'
        is_sending.set()
        await sleep_forever()

    async with http_client(ScriptedBackend()) as client:
        task = asyncio.create_task(client.post("/v1/chat/completions", content=slow()))
        await is_sending.wait()
        assert (await client.get("/health")).status_code == 200
        task.cancel()
        await asyncio.wait((task,))
