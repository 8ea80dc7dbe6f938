"""`POST /api/chat` passes on the lines of a real Ollama, all but the times."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.recorded_ollama import StandIn, recording, stand_in
from fakes.scripted_backend import http_client

from adapters.config import OllamaConfig
from adapters.ollama.backend import OllamaBackend

STREAMS = [
    "chat-stream",
    "chat-stream-unicode",
    "chat-stop-stream",
    "chat-schema-stream",
    "chat-logprobs-stream",
    "chat-think-answer-stream",
    "chat-tools-call-stream",
    "chat-tools-two-calls-stream",
]
OURS = ("created_at", "total_duration")
"""Fields that Tandem writes by its own clock."""


@pytest.fixture
async def upstream() -> AsyncIterator[StandIn]:
    async with stand_in() as standin:
        for name in ("tags", "show-llama", "version", "ps"):
            standin.replays(name)
        yield standin


async def answer_of(
    upstream: StandIn, name: str, asked: str | None = None
) -> tuple[int, list[dict[str, Any]]]:
    """Status and lines of what Tandem says to the question recorded in `asked`, by default that in
    `name`, when Ollama says what is recorded in `name`."""
    upstream.replays(name, "/api/chat")
    backend = OllamaBackend(OllamaConfig(host=upstream.host))
    try:
        async with http_client(backend) as client:
            body = recording(asked or name)["request"]["body"]
            response = await client.post("/api/chat", json=body)
    finally:
        await backend.aclose()
    return response.status_code, [json.loads(line) for line in response.text.splitlines()]


def without_time(line: dict[str, Any]) -> list[tuple[str, Any]]:
    """In order."""
    return [(key, value) for key, value in line.items() if key not in OURS]


@pytest.mark.parametrize("name", STREAMS)
async def test_lines_are_ollamas_own(upstream: StandIn, name: str):
    said = [json.loads(chunk) for chunk in recording(name)["response"]["chunks"]]
    _, told = await answer_of(upstream, name)
    assert [without_time(line) for line in told] == [without_time(line) for line in said]
    assert list(told[-1]) == list(said[-1])


async def test_runner_that_dies_ends_the_lines_with_an_error(upstream: StandIn):
    _, told = await answer_of(upstream, "fault-runner-killed-midstream", asked="chat-stream")
    assert list(told[-1]) == ["error"]
    assert len(told) > 1
    assert not any(line.get("done") for line in told)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("chat-missing", 404, "Model 'nope' not found."),
        ("chat-think-unsupported", 400, "'think'"),
        ("chat-tools-unsupported", 400, "'tools'"),
        ("chat-overflow-truncate-false", 400, "holds 2048 tokens; the prompt alone has 9925."),
    ],
)
async def test_what_ollama_refuses_has_ollamas_body(
    upstream: StandIn, name: str, status: int, words: str
):
    got, (body,) = await answer_of(upstream, name)
    assert (got, list(body)) == (status, ["error"])
    assert words in body["error"]
