"""Models on Ollama's own MLX runner, which takes a schema or a stop string and does not heed it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fakes.recorded_ollama import StandIn, says_lines, stand_in
from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.backend import Model
from adapters.config import OllamaConfig
from adapters.ollama.backend import OllamaBackend

DETAILS = {"format": "safetensors", "context_length": 4096}
TAG = {"name": "m:latest", "capabilities": ["completion", "tools"], "details": DETAILS}
TOOL = {"type": "function", "function": {"name": "f"}}
SHAPE = {"type": "json_object"}
ANSWER = says_lines(
    {"message": {"content": "Hi"}, "done": False},
    {"message": {"content": ""}, "done": True, "done_reason": "stop"},
)


@asynccontextmanager
async def serving(*others: ScriptedBackend) -> AsyncIterator[tuple[httpx2.AsyncClient, StandIn]]:
    async with stand_in() as standin:
        standin.says("/api/tags", says_lines({"models": [TAG]}))
        standin.says("/api/chat", ANSWER)
        backend = OllamaBackend(OllamaConfig(host=standin.host))
        async with http_client(backend, *others) as client:
            yield client, standin
        await backend.aclose()


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m:latest", "messages": [{"role": "user", "content": "Hi"}], **fields}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": SHAPE}, "response_format"),
        ({"stop": ["x"]}, "stop"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    ],
)
async def test_what_it_would_not_heed_is_refused_by_name(fields: dict[str, Any], param: str):
    async with serving() as (client, standin):
        answer = await client.post("/v1/chat/completions", json=chat(**fields))
        assert not standin.bodies("/api/chat")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["code"] == "unsupported_parameter"


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL]}, {"temperature": 0, "max_tokens": 5}])
async def test_everything_else_is_answered(fields: dict[str, Any]):
    async with serving() as (client, standin):
        answer = await client.post("/v1/chat/completions", json=chat(**fields))
        assert len(standin.bodies("/api/chat")) == 1
    assert answer.status_code == 200


async def test_embeddings_are_refused_by_name():
    async with serving() as (client, _):
        answer = await client.post("/v1/embeddings", json={"model": "m:latest", "input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")


async def test_schema_goes_to_the_other_backend_that_has_the_model():
    other = ScriptedBackend(kind="mlx", models=[Model(name="m:latest")])
    async with serving(other) as (client, standin):
        body = chat(response_format=SHAPE)
        answer = await client.post("/v1/chat/completions", json=body)
        assert not standin.bodies("/api/chat")
    assert (answer.status_code, answer.headers["x-tandem-backend"]) == (200, "mlx")
