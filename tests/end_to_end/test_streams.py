"""A streamed answer, put together, is the answer that is not streamed: the whole way over HTTP.

The model is a tiny one: half of the time it says what it likes, else bits of what templates teach,
in any order, so that every section begins, breaks off and follows every other.
"""

import random
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_backend import openai_client
from fakes.scripted_model import CITY, ScriptedEngine
from fakes.tiny_model import TOOL_TEMPLATE, config_for, write_tiny_model
from openai import AsyncOpenAI
from openai.types import CompletionUsage

from adapters.mlx.backend import MLXBackend
from adapters.mlx.sequence import Sequence

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
BITS = (
    CALL,
    CALL,
    CALL,
    "<think>Well.</think>",
    "<think>Well.</think>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    '{"name": "weather", "arguments": {"city": "Paris"}}',
    '{"name": "weather", "arguments": {"city": "Ro',
    '{"name": "absent", "arguments": {}}',
    "Hm, 🙂 é",
    "stop",
    "st",
    " ",
    "\n",
    "[{",
    '"}',
    "<",
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


def write(choices: tuple[Sequence, ...]) -> tuple[str, ...] | None:
    """Return the texts of a request's choices, which depend on its seed alone."""
    chance = random.Random(choices[0].sampling.seed)  # noqa: S311 - noise, not secrets.
    if chance.random() < 0.3:
        return None
    return tuple("".join(chance.choices(BITS, k=chance.randint(1, 9))) for _ in choices)


def body_of(seed: int) -> dict[str, Any]:
    chance = random.Random(f"body {seed}")  # noqa: S311
    wishes: list[dict[str, Any]] = [
        {"tools": TOOLS},
        {"stop": ["stop", "é"]},
        {"logprobs": True, "top_logprobs": chance.randint(0, 3)},
        {"n": chance.randint(2, 3)},
        {"reasoning_effort": chance.choice(["none", "low"])},
    ]
    body: dict[str, Any] = {
        "model": "caller",
        "messages": [{"role": "user", "content": "".join(chance.choices("héllo 🙂\n", k=9))}],
        "seed": seed,
        "temperature": 1.0,
        "max_tokens": chance.choice([1, 7, 40, 160]),
    }
    for wish in chance.sample(wishes, chance.randint(0, len(wishes))):
        body |= wish
    return body


Told = dict[int, dict[str, Any]]


async def whole(client: AsyncOpenAI, body: dict[str, Any]) -> tuple[Told, CompletionUsage | None]:
    answer = await client.chat.completions.create(**body)
    told: Told = {}
    for choice in answer.choices:
        message = choice.message
        told[choice.index] = {
            "text": message.content or "",
            "reasoning": getattr(message, "reasoning_content", ""),
            "calls": [
                [call.function.name, call.function.arguments]  # type: ignore[union-attr]
                for call in message.tool_calls or []
            ],
            "logprobs": [
                each.token for each in (choice.logprobs and choice.logprobs.content) or []
            ],
            "reason": choice.finish_reason,
        }
    return told, answer.usage


async def streamed(
    client: AsyncOpenAI, body: dict[str, Any]
) -> tuple[Told, CompletionUsage | None]:
    told: Told = {
        index: {"text": "", "reasoning": "", "calls": [], "logprobs": [], "reason": None}
        for index in range(body.get("n", 1))
    }
    usage = None
    stream = await client.chat.completions.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            add(told[choice.index], choice)
    return told, usage


def add(said: dict[str, Any], choice: Any) -> None:
    """One chunk's choice to what was `said` before."""
    assert said["reason"] is None, "something follows the end"
    said["text"] += choice.delta.content or ""
    said["reasoning"] += getattr(choice.delta, "reasoning_content", "")
    said["logprobs"] += [each.token for each in (choice.logprobs and choice.logprobs.content) or []]
    for call in choice.delta.tool_calls or []:
        if call.id is not None:
            assert call.index == len(said["calls"])
            said["calls"].append([call.function.name, ""])
        said["calls"][call.index][1] += call.function.arguments or ""
    said["reason"] = choice.finish_reason


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [20, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
async def test_a_stream_put_together_is_the_answer(tmp_path: Path, seeds: int) -> None:
    write_tiny_model(tmp_path / "caller", template=TOOL_TEMPLATE, context=1024)
    # Without what it has read before, usage says the same both times.
    config = config_for(tmp_path, prefix_cache_bytes=0)
    engine = ScriptedEngine(config)
    engine.write = write
    async with (
        aclosing(MLXBackend(config, engine=engine)) as backend,
        openai_client(backend) as client,
    ):
        seen: set[str] = set()
        for seed in range(seeds):
            body = body_of(seed)
            told, usage = await whole(client, body)
            assert await streamed(client, body) == (told, usage), body
            seen |= {part for said in told.values() for part, value in said.items() if value}
        assert seen == {"text", "reasoning", "calls", "logprobs", "reason"}
