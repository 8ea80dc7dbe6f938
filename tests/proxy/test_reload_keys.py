"""A reload of each key of `server`: the change takes effect, or is reported as waiting."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from fakes.scripted_backend import DONE, HANG, ScriptedBackend
from fakes.waiting import pause
from msgspec.structs import fields
from servers.served import served

from adapters.backend import Model
from adapters.events import Started, TextDelta
from adapters.request import GenerationRequest
from adapters.sink import Sink
from proxy.config import ServerConfig, load_config

BOTH = "models: {m: {mlx: m, ollama: m, prefer: mlx}}"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
KEY = "a-key-of-the-administrator"
CHANGES = {
    "host": "0.0.0.0",
    "port": "9",
    "allowed_hosts": "[tandem.lan]",
    "allowed_origins": "['https://chat.example']",
    "allowed_admin_origins": "['https://chat.example']",
    "keys": f"[{{name: owner, key: {KEY}, role: admin}}]",
    "insecure": "true",
    "strict_fields": "true",
    "max_body_bytes": "40",
    "max_depth": "1",
    "refresh": "9",
    "keepalive": "0.01",
    "memory_bytes": "1000000000",
    "auto_pull": "true",
    "auto_pull_hosts": "[hf.co]",
    "pull_timeout": "9",
    "log_format": "json",
    "shutdown_grace": "9",
    "state_folder": "/elsewhere",
    "store": "false",
    "fallback_after": "0.01",
    "images": "{max_count: 1}",
    "audio": "{max_input: 1}",
}
"""Another value of each key."""


class Slow(ScriptedBackend):
    """Says its patience, after a pause before each event."""

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        for event in (Started(), TextDelta(str(request.patience)), DONE):
            await pause(0.05)
            sink.write(event)


async def chat(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=CHAT | body)


async def health(client: httpx.AsyncClient, **headers: str) -> int:
    return (await client.get("/health", headers=headers)).status_code


async def reload_of_a_page(client: httpx.AsyncClient) -> int:
    headers = {"origin": "https://chat.example"}
    return (await client.post("/api/config/reload", headers=headers)).status_code


async def comments(client: httpx.AsyncClient) -> bool:
    return ": keepalive" in (await chat(client, stream=True)).text


async def patience(client: httpx.AsyncClient) -> str:
    return (await chat(client)).json()["choices"][0]["message"]["content"]


async def two_images(client: httpx.AsyncClient) -> bool:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    said = await chat(client, messages=[{"role": "user", "content": [image, image]}])
    return "at most 1 " in said.text


async def speech(client: httpx.AsyncClient) -> bool:
    body = {"model": "m", "voice": "alloy", "input": "Hello", "response_format": "wav"}
    return "at most 1 " in (await client.post("/v1/audio/speech", json=body)).text


Probe = Callable[[httpx.AsyncClient], Awaitable[object]]


async def status_of_a_chat(client: httpx.AsyncClient) -> int:
    return (await chat(client, colour="red")).status_code


PROBES: dict[str, tuple[Probe, object, object]] = {
    "allowed_hosts": (lambda client: health(client, host="tandem.lan"), 403, 200),
    "allowed_origins": (lambda client: health(client, origin="https://chat.example"), 403, 200),
    "allowed_admin_origins": (reload_of_a_page, 403, 200),
    "keys": (health, 200, 401),
    "strict_fields": (status_of_a_chat, 200, 400),
    "max_body_bytes": (status_of_a_chat, 200, 413),
    "max_depth": (status_of_a_chat, 200, 400),
    "keepalive": (comments, False, True),
    "fallback_after": (patience, "30.0", "0.01"),
    "images": (two_images, False, True),
    "audio": (speech, False, True),
}
"""The view of a client, before and after the change of a key."""
BY_RELOADS = {"insecure"}
"""Keys that only the next reload reads; see `test_last_key_stays`."""


@pytest.mark.parametrize("key", [field.name for field in fields(ServerConfig)])
async def test_change_of_a_key_takes_effect_or_waits_for_a_restart(key: str, tmp_path: Path):
    file = tmp_path / "config.yaml"
    texts = iter([BOTH, f"{BOTH}\nserver: {{{key}: {CHANGES[key]}}}"])
    config = load_config(_written(file, next(texts)), {})
    models = [Model(name="m")]
    app = served(
        Slow(kind="mlx", models=models),
        config,
        others=[ScriptedBackend(kind="ollama", models=models)],
        read_config=lambda: load_config(file, {}),
    )
    probe, before, after = PROBES.get(key, (health, 200, 200))
    async with (
        app as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        assert await probe(client) == before
        _written(file, next(texts))
        told = (await client.post("/api/config/reload")).json()
        assert await probe(client) == after
    if key in PROBES.keys() | BY_RELOADS:
        assert (told["changed"], told["needs_restart"]) == ([f"server.{key}"], [])
    else:
        assert (told["changed"], told["needs_restart"]) == ([], [f"server.{key}"])


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("insecure", [False, True])
async def test_last_key_stays(insecure: bool, host: str, tmp_path: Path):
    """A proxy may be in front of a local address, and a file that is being written is empty."""
    keys = f"keys: {CHANGES['keys']}"
    file = _written(tmp_path / "config.yaml", f"server: {{host: {host}, {keys}}}")
    config = load_config(file, {})
    app = served(ScriptedBackend(), config, read_config=lambda: load_config(file, {}))
    async with app as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        _written(file, f"server: {{host: 127.0.0.1, insecure: {str(insecure).lower()}}}")
        reload = await client.post("/api/config/reload", headers={"x-api-key": KEY})
        assert reload.status_code == (200 if insecure else 400)
        assert await health(client) == (200 if insecure else 401)


async def test_limits_of_a_key_go_on_from_what_was_used(tmp_path: Path):
    """A reload each minute would otherwise be a key without limits."""
    key = f"name: owner, key: {KEY}, role: admin, concurrent: 1"
    text = f"server: {{keys: [{{{key}, requests_per_minute: %d}}]}}"
    file = _written(tmp_path / "config.yaml", text % 3)
    config = load_config(file, {})
    backend = ScriptedBackend((Started(), HANG))
    app = served(backend, config, read_config=lambda: load_config(file, {}))
    headers = {"x-api-key": KEY}
    async with (
        app as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client,
        client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}),
    ):
        await backend.began.wait()
        _written(file, text % 4)
        reload = await client.post("/api/config/reload")
        second = await chat(client)
        third = await chat(client)
        fourth = await chat(client)
    assert reload.json()["changed"] == ["server.keys"]
    assert ["concurrent" in each.text for each in (second, third, fourth)] == [True, True, False]
    assert "requests per min: Limit 4." in fourth.text


async def test_new_limit_of_bodies_holds_for_a_websocket_that_is_opened_then(tmp_path: Path):
    file = _written(tmp_path / "config.yaml", "")
    config = load_config(file, {})
    app = served(ScriptedBackend(), config, read_config=lambda: load_config(file, {}))
    async with app as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        _written(file, "server: {max_body_bytes: 100}")
        await client.post("/api/config/reload")
        async with websockets.connect(f"ws://127.0.0.1:{port}/v1/responses") as socket:
            await socket.send(json.dumps({"type": "response.create", "input": "a" * 100}))
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1009
