"""URLs of other APIs that are not served: a 404 that says which."""

import io
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import ollama
import openai
import pytest
from fakes.scripted_backend import ScriptedBackend, http_client, openai_client

from proxy.app import create_app
from proxy.config import Config

Request = Callable[[openai.AsyncOpenAI], Awaitable[Any]]


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (lambda c: c.files.create(file=io.BytesIO(b"{}"), purpose="batch"), "files"),
        (lambda c: c.files.list(), "files"),
        (lambda c: c.batches.retrieve("batch_1"), "batches"),
        (lambda c: c.moderations.create(input="Hi"), "moderations"),
        (lambda c: c.fine_tuning.jobs.list(), "fine-tuning"),
        (lambda c: c.images.generate(prompt="a cat"), "generation of images"),
        (lambda c: c.vector_stores.create(), "vector stores"),
        (lambda c: c.uploads.cancel("upload_1"), "uploads"),
        (lambda c: c.evals.list(), "evals"),
        (lambda c: c.get("/audio/voice_consents", cast_to=object), "voices of users"),
    ],
)
async def test_openai_client_reads_what_is_absent(request_: Request, name: str):
    async with openai_client(ScriptedBackend()) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await request_(client)
    assert f"Tandem has no {name}, which OpenAI's API has." in caught.value.message
    assert caught.value.code == "unknown_url"


async def test_other_clients_read_it_whatever_they_send():
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post("/v1/assistants", content=b"x", headers={"content-type": "a/b"})
    assert answer.status_code == 404
    assert "Tandem has no assistants" in answer.json()["error"]["message"]


async def test_path_that_begins_like_an_absent_one_is_only_unknown():
    async with http_client(ScriptedBackend()) as client:
        answer = await client.get("/v1/filesystem")
    assert "Tandem has no" not in answer.text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_anthropics_client_reads_what_is_absent(method: str):
    async with http_client(ScriptedBackend()) as client:
        headers = {"anthropic-version": "2023-06-01"}
        answer = await client.request(method, "/v1/messages/batches", headers=headers)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    assert "no batches of messages, which Anthropic's API has" in answer.json()["error"]["message"]


async def test_ollamas_client_reads_what_is_absent():
    app = create_app(Config(), {"m": ScriptedBackend()})
    client = ollama.AsyncClient("http://127.0.0.1:8006", transport=httpx.ASGITransport(app=app))  # type: ignore[arg-type]
    async with app.lifespan():
        with pytest.raises(ollama.ResponseError, match="no uploads of models to a registry") as e:
            await client.push("m")
    assert e.value.status_code == 404


async def test_ollamas_client_reads_that_a_path_is_unknown():
    async with http_client(ScriptedBackend()) as client:
        answer = await client.get("/api/benchmark")
    assert answer.status_code == 404
    assert answer.json() == {"error": "There is no such URL. GET /openapi.json lists all."}
