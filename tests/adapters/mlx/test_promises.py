"""What the engine promises, shown on SmolLM2 itself, in float32 on this CPU."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from scripted_model import answer, chat, config_for, told

from adapters.mlx.backend import MLXBackend
from adapters.request import GenerationRequest, JSONSchema, Sampling, Tool

WILD = 1.2
RUNS, AT_ONCE = 200, 8


@pytest.fixture
async def backend(smollm2_folder: Path) -> AsyncGenerator[MLXBackend]:
    backend = MLXBackend(config_for(smollm2_folder.parent))
    await backend.load(smollm2_folder.name)
    yield backend
    await backend.aclose()


@pytest.fixture
def model(smollm2_folder: Path) -> str:
    return smollm2_folder.name


async def texts_of(backend: MLXBackend, *requests: GenerationRequest) -> list[str]:
    several = await asyncio.gather(*(answer(backend, each) for each in requests))
    return [told(events)["text"] for events in several]


async def test_a_row_says_the_same_among_seven_others(backend: MLXBackend, model: str) -> None:
    def asked(seed: int) -> GenerationRequest:
        sampling = Sampling(temperature=1.0, seed=seed) if seed != 40 else Sampling(temperature=0)
        return chat(f"Tell me about the number {seed}.", model, sampling=sampling, max_tokens=12)

    alone = [(await texts_of(backend, asked(seed)))[0] for seed in (40, 42)]
    crowd = await texts_of(backend, *map(asked, range(38, 46)))
    assert [crowd[2], crowd[4]] == alone
    assert len(set(crowd)) == 8


class Shapes:
    """Random nested schemas, as strict mode has them: every key required, nothing else allowed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - shapes, not secrets.

    def object(self, depth: int = 3) -> dict[str, Any]:
        words = ("name", "age", "tags", "city", "note", "items", "score", "kind")
        keys = self._chance.sample(words, self._chance.randint(1, 3))
        return {
            "type": "object",
            "properties": {key: self._value(depth - 1) for key in keys},
            "required": keys,
            "additionalProperties": False,
        }

    def _value(self, depth: int) -> dict[str, Any]:
        leaves: list[dict[str, Any]] = [
            {"type": "string"},
            {"type": "string", "maxLength": 12},
            {"type": "integer"},
            {"type": "number"},
            {"type": "boolean"},
            {"enum": ["red", "green", "blue", None]},
            {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        ]
        if depth < 1 or self._chance.random() < 0.4:
            return self._chance.choice(leaves)
        if self._chance.random() < 0.5:
            return self.object(depth)
        return {"type": "array", "items": self._value(depth - 1), "maxItems": 3}


def batches() -> Iterator[tuple[int, Sampling]]:
    """Together `RUNS` answers, each with a seed of its own."""
    for number in range(RUNS // AT_ONCE):
        yield number, Sampling(temperature=WILD, seed=number * AT_ONCE)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_hundred_nested_schemas_are_kept_and_end(backend: MLXBackend, model: str) -> None:
    reasons: list[str] = []
    for number, sampling in batches():
        schema = Shapes(number).object()
        shape = JSONSchema(schema, strict=True)
        request = chat(
            "Make up somebody, as JSON.",
            model,
            response_format=shape,
            sampling=sampling,
            n=AT_ONCE,
            max_tokens=2000,
        )
        events = await answer(backend, request)
        for choice in range(AT_ONCE):
            said = told(events, choice)
            reasons.append(said["reason"])
            jsonschema.validate(json.loads(said["text"]), schema)
    assert reasons == ["stop"] * RUNS


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_hundred_forced_calls_are_valid_and_end(backend: MLXBackend, model: str) -> None:
    reasons: list[str] = []
    for number, sampling in batches():
        tools = tuple(
            Tool(name, f"Finds a {name}.", Shapes(number + place * 1000).object(2))
            for place, name in enumerate(("person", "place"))
        )
        request = chat(
            "Find somebody somewhere.",
            model,
            tools=tools,
            tool_choice="required",
            parallel_tool_calls=number % 2 == 0,
            sampling=sampling,
            n=AT_ONCE,
            max_tokens=3000,
        )
        events = await answer(backend, request)
        for choice in range(AT_ONCE):
            said = told(events, choice)
            reasons.append(said["reason"])
            require_calls(said["calls"], tools, several=request.parallel_tool_calls)
    assert reasons == ["tool_calls"] * RUNS


def require_calls(calls: list[list[str]], tools: tuple[Tool, ...], *, several: bool) -> None:
    schemas = {tool.name: tool.parameters or {} for tool in tools}
    assert len(calls) >= 1 if several else len(calls) == 1
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), schemas[name])
