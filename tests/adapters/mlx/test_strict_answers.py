"""Guarantees of the engine on SmolLM2, in float32 on this CPU."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes.scripted_model import answer, chat, told
from fakes.tiny_model import config_for

from adapters.config import MLXConfig
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.request import GenerationRequest, JSONSchema, Sampling, Tool

pytestmark = pytest.mark.long

REQUESTS, CHOICES = 40, 5
AT_ONCE = 5
"""Requests; together 25 answers in one batch."""


@pytest.fixture
def config(smollm2_folder: Path) -> MLXConfig:
    return config_for(smollm2_folder.parent, max_concurrent=AT_ONCE * CHOICES)


@pytest.fixture
async def model(backend: MLXBackend, smollm2_folder: Path) -> str:
    await backend.load(smollm2_folder.name)
    return smollm2_folder.name


async def texts_of(backend: MLXBackend, *requests: GenerationRequest) -> list[str]:
    several = await asyncio.gather(*(answer(backend, each) for each in requests))
    return [told(events)["text"] for events in several]


async def test_a_row_says_the_same_among_seven_others(backend: MLXBackend, model: str) -> None:
    def asked(seed: int) -> GenerationRequest:
        sampling = Sampling(temperature=1.0, seed=seed) if seed != 40 else Sampling(temperature=0)
        return chat(f"Tell me about the number {seed}.", model, sampling=sampling, max_tokens=8)

    alone = [(await texts_of(backend, asked(seed)))[0] for seed in (40, 42)]
    crowd = await texts_of(backend, *map(asked, range(38, 46)))
    assert [crowd[2], crowd[4]] == alone
    assert len(set(crowd)) == 8


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_hundreds_of_prompts_read_together_are_answered_as_alone(
    backend: MLXBackend, engine: Engine, model: str
) -> None:
    """Random words leave the model uncertain, so that ties would show."""
    chance = random.Random(3)  # noqa: S311
    words = ["the", "of", "sea", "7", "harbour,", "said", "blue?", "Anna", "if", "cold.", "to"]

    def asked() -> GenerationRequest:
        text = " ".join(chance.choices(words, k=chance.randint(5, 60)))
        return chat(text, model, sampling=Sampling(temperature=0), max_tokens=3)

    for burst in range(25):
        several = [asked() for _ in range(8)]
        alone = [(await texts_of(backend, each))[0] for each in several]
        await asyncio.wrap_future(engine.trim_prefixes(2**40))
        assert await texts_of(backend, *several) == alone
        print(f"{burst * 8 + 8} prompts", flush=True)


class Shapes:
    """Random nested schemas, as strict mode has them: every key required, nothing else allowed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - shapes, not secrets.

    def object(self, depth: int = 3) -> dict[str, Any]:
        words = ("name", "age", "tags", "city", "note", "items", "score", "kind")
        keys = self._chance.sample(words, self._chance.randint(1, 2))
        return {
            "type": "object",
            "properties": {key: self._value(depth - 1) for key in keys},
            "required": keys,
            "additionalProperties": False,
        }

    def _value(self, depth: int) -> dict[str, Any]:
        leaves: list[dict[str, Any]] = [
            # Without a bound a model this hot rambles up to ours, for minutes on this machine;
            # that it ends is shown with tiny models.
            {"type": "string", "maxLength": 40},
            {"type": "string", "maxLength": 12},
            {"type": "integer"},
            {"type": "number"},
            {"type": "boolean"},
            {"enum": ["red", "green", "blue", None]},
            {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        ]
        if depth < 1 or self._chance.random() < 0.2:
            return self._chance.choice(leaves)
        if self._chance.random() < 0.6:
            return self.object(depth)
        return {"type": "array", "items": self._value(depth - 1), "maxItems": 2}


Checked = Callable[[dict[str, Any]], None]
Asked = tuple[GenerationRequest, Checked]
"""A request, and a check that raises where one of its answers breaks the request."""


async def reasons(backend: MLXBackend, make: Callable[[int], Asked]) -> list[str]:
    """Why the answers ended to `REQUESTS` requests of `make`, all of which are checked."""
    found: list[str] = []
    for first in range(0, REQUESTS, AT_ONCE):
        several = [make(number) for number in range(first, first + AT_ONCE)]
        answers = await asyncio.gather(*(answer(backend, request) for request, _ in several))
        for (_, check), events in zip(several, answers, strict=True):
            for choice in range(CHOICES):
                said = told(events, choice)
                found.append(said["reason"])
                check(said)
        print(f"{len(found)} answers, {Counter(found)}", flush=True)
    return found


def wild(number: int, **fields: Any) -> dict[str, Any]:
    """No limit of tokens: each answer has to end by itself."""
    sampling = Sampling(temperature=1.2, seed=number * CHOICES)
    return {"sampling": sampling, "n": CHOICES, "max_tokens": None, **fields}


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_hundred_nested_schemas_are_kept_and_end(backend: MLXBackend, model: str) -> None:
    def make(number: int) -> Asked:
        schema = Shapes(number).object()
        shape = JSONSchema(schema, strict=True)
        request = chat("Invent a person, as JSON.", model, **wild(number, response_format=shape))
        return request, lambda said: jsonschema.validate(json.loads(said["text"]), schema)

    assert await reasons(backend, make) == ["stop"] * REQUESTS * CHOICES


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_hundred_forced_calls_are_valid_and_end(backend: MLXBackend, model: str) -> None:
    def make(number: int) -> Asked:
        tools = tuple(
            Tool(name, f"Finds a {name}.", Shapes(number + place * 1000).object(2))
            for place, name in enumerate(("person", "place"))
        )
        several = number % 2 == 0
        forced = wild(number, tools=tools, tool_choice="required", parallel_tool_calls=several)
        request = chat("Find a person somewhere.", model, **forced)
        return request, lambda said: require_calls(said["calls"], tools, several=several)

    assert await reasons(backend, make) == ["tool_calls"] * REQUESTS * CHOICES


def require_calls(calls: list[list[str]], tools: tuple[Tool, ...], *, several: bool) -> None:
    schemas = {tool.name: tool.parameters or {} for tool in tools}
    assert len(calls) >= 1 if several else len(calls) == 1
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), schemas[name])
