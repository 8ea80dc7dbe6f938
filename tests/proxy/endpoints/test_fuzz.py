"""Thousands of wrong requests: each is answered by name, and the next right one as before."""

import copy
import json
import random
from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend, chat, http_client

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CHAT: dict[str, Any] = chat(
    messages=[
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "Ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "7"},
    ],
    temperature=0.5,
    top_p=0.9,
    max_tokens=16,
    max_completion_tokens=16,
    seed=7,
    stop=["x", "y"],
    stream=False,
    n=1,
    logprobs=True,
    top_logprobs=2,
    logit_bias={"5": 1},
    frequency_penalty=0.1,
    presence_penalty=0.1,
    response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
    tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    tool_choice={"type": "function", "function": {"name": "f"}},
    parallel_tool_calls=False,
    reasoning_effort="low",
    metadata={"a": "b"},
    user="someone",
)
OLLAMA: dict[str, Any] = chat(
    messages=[
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "images": []},
        {
            "role": "assistant",
            "thinking": "hm",
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "tool_name": "f", "content": "7"},
    ],
    stream=False,
    format={"type": "object"},
    options={"temperature": 0.5, "num_predict": 16, "stop": ["x"], "seed": 7, "mirostat": 1},
    tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    think="low",
    keep_alive="5m",
    logprobs=True,
    top_logprobs=2,
    truncate=False,
    shift=False,
)
PROMPT: dict[str, Any] = {
    "model_id": "m",
    "prompt": "Hi",
    "system": "Be brief.",
    "stream": True,
    "raw": False,
    "temperature": 0.5,
    "max_tokens": 16,
    "stop": ["x"],
    "options": {"top_k": 5, "mirostat": 1},
    "guided_json": {"type": "object"},
    "reasoning_effort": "low",
    "keep_alive": "5m",
}
JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    2**63,
    -(2**70),
    "",
    "\x00",
    "🙂" * 300,
    "auto",
    [],
    [[]],
    [None],
    {},
    {"type": "text"},
    {"type": []},
    {"role": "user"},
    {"": {"": {}}},
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all parts of `value` that could be replaced, at every depth."""
    match value:
        case dict():
            items: list[tuple[Any, Any]] = list(value.items())
        case list():
            items = list(enumerate(value))
        case _:
            return []
    inner = [[(*path, key), *paths(child, (*path, key))] for key, child in items]
    return [each for found in inner for each in found]


def mutated(full: dict[str, Any], chance: random.Random) -> bytes:
    body = copy.deepcopy(full)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        *way, last = chance.choice(paths(body))
        at: Any = body
        for key in way:
            at = at[key]
        if chance.random() < 0.15:
            del at[last]
        else:
            at[last] = copy.deepcopy(chance.choice(JUNK))
        if not body:
            break
    return scrambled(json.dumps(body).encode(), chance)


def scrambled(data: bytes, chance: random.Random) -> bytes:
    """One time in four, bytes are changed, cut or doubled as well."""
    if chance.random() > 0.25:
        return data
    broken = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(broken) + 1)
        broken[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    return bytes(broken)


@pytest.mark.parametrize(
    ("url", "full"),
    [("/v1/chat/completions", CHAT), ("/api/chat", OLLAMA), ("/api/chat", PROMPT)],
    ids=["openai", "ollama", "prompt"],
)
async def test_wrong_requests_are_refused_and_harm_nobody(url: str, full: dict[str, Any]) -> None:
    chance = random.Random(20261124)  # noqa: S311
    statuses: set[int] = set()
    async with http_client(ScriptedBackend()) as client:
        for number in range(20_000):
            body = mutated(full, chance)
            headers = {"content-type": "application/json"}
            response = await client.post(url, content=body, headers=headers)
            statuses.add(response.status_code)
            assert response.status_code in (200, 400, 404), (body, response.text)
            assert response.headers["x-request-id"]
            if response.status_code != 200:
                error = response.json()["error"]
                if isinstance(error, dict):
                    assert set(error) == {"message", "type", "param", "code"}
                    error = error["message"]
                else:  # Ollama's body; which of the two a broken body gets depends on its fields.
                    assert url == "/api/chat"
                assert error
                assert isinstance(error, str)
            if number % 1000 == 0:
                assert (await client.post(url, json=chat())).status_code == 200
    assert statuses == {200, 400, 404}
