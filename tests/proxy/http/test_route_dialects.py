"""Errors answer in the dialect of their route: at the gates, in handlers, before any event."""

from typing import Any

import httpx2
import pytest
from fakes.scripted_backend import ScriptedBackend, chat, http_client

from adapters.errors import BackendBusyError

OPENAI = {"message", "type", "param", "code"}


async def errors(path: str, body: dict[str, Any], backend: ScriptedBackend) -> dict[str, Any]:
    """The error in each phase of a request, by phase."""
    from_page = {"content-type": "text/plain", "sec-fetch-site": "same-origin"}
    async with http_client(backend) as client:
        answers: dict[str, httpx2.Response] = {
            "host": await client.post(path, json=body, headers={"host": "evil.example"}),
            "type": await client.post(path, content=b"{}", headers=from_page),
            "method": await client.delete(path),
            "backend": await client.post(path, json=body),
        }
    assert [each.status_code for each in answers.values()] == [403, 415, 405, 429]
    return {phase: answer.json()["error"] for phase, answer in answers.items()}


@pytest.mark.parametrize("stream", [False, True])
async def test_ollamas_chat_has_ollamas_error_body(stream: bool):
    busy = ScriptedBackend([BackendBusyError("Later.")])
    found = await errors("/api/chat", chat(stream=stream), busy)
    assert all(isinstance(error, str) for error in found.values())
    assert found["backend"] == "Later."


@pytest.mark.parametrize("field", ["model_id", "model"])
async def test_prompt_at_the_same_url_has_openais_error_body(field: str):
    busy = ScriptedBackend([BackendBusyError("Later.")])
    async with http_client(busy) as client:
        answer = await client.post("/api/chat", json={field: "m", "prompt": "Hi"})
    assert answer.status_code == 429
    assert set(answer.json()["error"]) == OPENAI


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", chat()), ("/v1/completions", {"model": "m", "prompt": "Hi"})],
)
async def test_openais_urls_have_openais_error_body(path: str, body: dict[str, Any]):
    found = await errors(path, body, ScriptedBackend([BackendBusyError("Later.")]))
    assert all(set(error) == OPENAI for error in found.values())


@pytest.mark.parametrize("path", ["/nope", "/api/nope", "/api/models", "/api/mlx/load/m"])
async def test_other_urls_have_openais_error_body(path: str):
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post(path, json={}, headers={"host": "evil.example"})
    assert set(answer.json()["error"]) == OPENAI
