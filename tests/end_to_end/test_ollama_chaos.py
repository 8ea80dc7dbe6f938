"""Thirty clients at once of an Ollama that breaks off, errs, drips and hurries.

Each hears the answer to what it asked, whole, or an error: nothing is mixed, lost, or ended as if
it were complete.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, StandIn, stand_in
from fakes.waiting import pause
from openai import APIError, AsyncOpenAI
from servers.server_process import serving, write

pytestmark = pytest.mark.long

CLIENTS, QUESTIONS = 30, 30
TAG = {"name": "m:latest", "details": {"context_length": 8192}, "capabilities": ["completion"]}
CHANCE = random.Random(5)  # noqa: S311 - noise, not secrets.


class Chaos:
    """Answers of an Ollama at random, and the questions that it answered in full."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin
        self.whole: dict[str, str] = {}

    async def __call__(self, reply: Reply) -> None:
        question = self._standin.seen[-1].body["messages"][-1]["content"]
        words = [f"{question}-{at} " for at in range(CHANCE.randint(1, 40))]
        lines = [json.dumps({"message": {"content": word}}).encode() + b"\n" for word in words]
        fate = CHANCE.choice(["cut", "error", "ends", "whole", "whole", "whole"])
        if fate == "whole":
            self.whole[question] = "".join(words)
            lines.append(b'{"message": {}, "done": true}\n')
        else:
            del lines[CHANCE.randint(0, len(lines)) :]
        await reply.head()
        await _say(reply, lines)
        match fate:
            case "cut":
                reply.cut()
            case "error":
                await reply.chunk(b'{"error": "it broke"}\n')
                await reply.end()
            case _:
                await reply.end()


async def _say(reply: Reply, lines: Sequence[bytes]) -> None:
    """In pieces that end anywhere, some of them after a while."""
    data = b"".join(lines)
    while data:
        size = CHANCE.choice([1, 7, 60, 400, 4000])
        await reply.chunk(data[:size])
        data = data[size:]
        if CHANCE.random() < 0.1:
            await pause(CHANCE.random() * 0.02)


async def _ask(client: AsyncOpenAI, question: str, streamed: bool) -> tuple[str, str | None]:
    """The text and how it ended."""
    body: Any = {"model": "m", "messages": [{"role": "user", "content": question}]}
    if not streamed:
        choice = (await client.chat.completions.create(**body)).choices[0]
        return choice.message.content or "", choice.finish_reason
    text, reason = "", None
    async for chunk in await client.chat.completions.create(**body, stream=True):
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    return text, reason


async def _ask_many(client: AsyncOpenAI, name: int, chaos: Chaos, told: Counter[str]) -> None:
    for at in range(QUESTIONS):
        question = f"q{name}-{at}"
        try:
            async with asyncio.timeout(20):
                text, reason = await _ask(client, question, streamed=at % 2 == 0)
        except APIError:
            told["error"] += 1
            assert question not in chaos.whole
        else:
            told["whole"] += 1
            assert (text, reason) == (chaos.whole[question], "stop")


async def test_every_client_of_a_chaotic_ollama_hears_its_own_answer_whole_or_an_error(
    tmp_path: Path,
) -> None:
    told: Counter[str] = Counter()
    async with stand_in() as standin:
        for path, body in (
            ("/api/tags", {"models": [TAG]}),
            ("/api/version", {"version": "9.9.9"}),
        ):
            standin.says(path, _saying(body))
        standin.says("/api/chat", chaos := Chaos(standin))
        config = write(tmp_path, f"backends: {{mlx: null, ollama: {{host: '{standin.host}'}}}}")
        with serving(config) as running:
            url = f"http://127.0.0.1:{running.port}/v1"
            async with AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
                clients = range(CLIENTS)
                await asyncio.gather(*(_ask_many(client, at, chaos, told) for at in clients))
            _, health = await asyncio.to_thread(running.get, "/health")
    counters = json.loads(health)["backends"]["ollama"]["counters"]
    assert (counters["active"], counters["finished"]) == (0, told["whole"])
    assert min(told["whole"], told["error"]) > CLIENTS * QUESTIONS / 4


def _saying(body: Any) -> Any:
    async def script(reply: Reply) -> None:
        await reply.plain(200, json.dumps(body).encode())

    return script
