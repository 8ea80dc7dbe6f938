"""Every architecture of mlx-lm as a tiny random model: the server's answers beside the engine's.

The reference is mlx-lm's own `generate_step` on the same folder, in the same process. Answers are
compared by the log probabilities of their tokens, which differ long before a text does.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import mlx.core as mx
from fakes.scripted_model import answer, told
from fakes.tiny_architectures import UNTESTED, VARIANTS, modules, write_tiny_architecture
from fakes.tiny_model import END, config_for
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from adapters import sink
from adapters.errors import BackendError
from adapters.events import Event, Finished, TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.request import GenerationRequest, JSONSchema, Sampling, TokenIds

OK = "ok"
TOLERANCE = 1e-4
"""Greatest difference of log probabilities, natural: float32, summed in another order."""
TOKENS = 24
PROMPTS = tuple(
    tuple(text)
    for text in (
        b"A prompt that is longer than a window of 16.",
        b"A shorter one, but past it.",
        b"The third prompt is by far the longest of these; no two of them are of one length.",
    )
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "size": {"type": "integer", "maximum": 9}},
    "required": ["colour", "size"],
    "additionalProperties": False,
}


class Answer(NamedTuple):
    logprobs: tuple[float, ...]
    cached: int
    """Tokens of the prompt that were not computed anew."""


class Subject(NamedTuple):
    """A tiny model, loaded by the server, and what the bare engine answers."""

    name: str
    backend: MLXBackend
    reference: Callable[[tuple[int, ...]], tuple[float, ...]]

    def request(self, prompt: tuple[int, ...], **fields: Any) -> GenerationRequest:
        chosen = {"max_tokens": TOKENS, "top_logprobs": 0, **fields}
        return GenerationRequest(model=self.name, prompt=TokenIds(prompt), **chosen)

    async def answer(self, prompt: tuple[int, ...], **fields: Any) -> Answer:
        return _read(await answer(self.backend, self.request(prompt, **fields)))


Check = Callable[[Subject], Awaitable[str]]


async def alone(subject: Subject) -> str:
    """Answer each prompt by itself."""
    answers = [await subject.answer(prompt) for prompt in PROMPTS]
    return _compare(subject, PROMPTS, answers)


async def together(subject: Subject) -> str:
    """Answer all prompts at once."""
    answers = await asyncio.gather(*[subject.answer(prompt) for prompt in PROMPTS])
    return _compare(subject, PROMPTS, answers)


async def continued(subject: Subject) -> str:
    """Answer prompts that begin as earlier ones do, as the next turns of a chat."""
    longer = tuple(PROMPTS[0] + prompt for prompt in PROMPTS)
    answers = [await subject.answer(prompt) for prompt in longer]
    return _compare(subject, longer, answers)


async def cancelled(subject: Subject) -> str:
    """Leave one of two answers midway: the other is complete, and so is the next."""
    leaving = asyncio.create_task(_leave(subject))
    answers = [await subject.answer(PROMPTS[1])]
    await leaving
    answers.append(await subject.answer(PROMPTS[0]))
    return _compare(subject, (PROMPTS[1], PROMPTS[0]), answers)


async def seeded(subject: Subject) -> str:
    """Draw with a seed, alone and beside others."""
    sampling = Sampling(temperature=1.0, seed=11)
    first = await subject.answer(PROMPTS[0], sampling=sampling)
    others = [subject.answer(prompt) for prompt in PROMPTS[1:]]
    again, *_ = await asyncio.gather(subject.answer(PROMPTS[0], sampling=sampling), *others)
    return _differ(again.logprobs, first.logprobs) or OK


async def constrained(subject: Subject) -> str:
    """Keep to a strict schema, alone and beside an answer without one."""
    request = subject.request(
        PROMPTS[1], response_format=JSONSchema(SCHEMA, strict=True), max_tokens=100
    )
    events, plain = await asyncio.gather(
        answer(subject.backend, request), subject.answer(PROMPTS[0])
    )
    try:
        jsonschema.validate(json.loads(told(events)["text"]), SCHEMA)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"breaks its schema: {error}".splitlines()[0]
    return _compare(subject, PROMPTS[:1], [plain])


CHECKS: dict[str, Check] = {
    check.__name__: check for check in (alone, together, continued, cancelled, seeded, constrained)
}


class Outcome(NamedTuple):
    faults: dict[str, str]
    """`OK` or what is wrong, by the name of the check."""
    reused: int
    """Tokens of `PROMPTS[0]` that were taken from the cache where another prompt began with it."""
    notes: tuple[str, ...]
    """Deviations that the card of the model names."""

    @property
    def is_right(self) -> bool:
        return set(self.faults.values()) == {OK}


def variations() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the module and the changed settings of every variation that runs here, by name."""
    plain: dict[str, tuple[str, dict[str, Any]]] = {
        name: (name, {}) for name in modules() if name not in UNTESTED
    }
    return plain | VARIANTS


async def sweep(name: str, folder: Path) -> Outcome:
    """Put every check to one variation, in a model written below `folder`.

    A check that raises counts as wrong, with the error's words.
    """
    module, changed = variations()[name]
    path = write_tiny_architecture(folder / "model", module, changed)
    async with _opened(path) as subject:
        faults = {title: await _outcome(check, subject) for title, check in CHECKS.items()}
        reused = await _reused(subject) if OK in faults.values() else 0
        notes = (note for model in await subject.backend.list_models() for note in model.notes)
        return Outcome(faults, reused, tuple(notes))


@asynccontextmanager
async def _opened(path: Path) -> AsyncGenerator[Subject]:
    model, _ = load_model(path)
    references: dict[tuple[int, ...], tuple[float, ...]] = {}

    def reference(prompt: tuple[int, ...]) -> tuple[float, ...]:
        if prompt not in references:
            references[prompt] = _generate(model, prompt)
        return references[prompt]

    async with aclosing(MLXBackend(config_for(path.parent))) as backend:
        yield Subject(path.name, backend, reference)


def _generate(model: Any, prompt: tuple[int, ...]) -> tuple[float, ...]:
    """Return the log probabilities of the bare engine's greedy answer, without the end's."""
    steps: Any = generate_step(mx.array(prompt), model, max_tokens=TOKENS)
    found: list[float] = []
    for token, logprobs in steps:
        if token == END:
            break
        found.append(float(logprobs[token].item()))
    return tuple(found)


async def _outcome(check: Check, subject: Subject) -> str:
    try:
        return await check(subject)
    except BackendError as error:
        return f"{type(error).__name__}: {error}"


async def _reused(subject: Subject) -> int:
    return (await subject.answer(PROMPTS[0] + PROMPTS[1][:8])).cached


async def _leave(subject: Subject) -> None:
    events = sink.events(subject.backend, subject.request(PROMPTS[2], max_tokens=200))
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta):
                return


def _read(events: list[Event]) -> Answer:
    found = [one for event in events for one in getattr(event, "logprobs", None) or ()]
    finished = events[-1]
    assert isinstance(finished, Finished)
    return Answer(tuple(one.logprob for one in found), finished.usage.cached_tokens or 0)


def _compare(subject: Subject, prompts: tuple[tuple[int, ...], ...], answers: list[Answer]) -> str:
    for prompt, found in zip(prompts, answers, strict=True):
        fault = _differ(found.logprobs, subject.reference(prompt))
        if fault is not None:
            return f"{fault}, prompt of {len(prompt)} tokens, {found.cached} cached"
    return OK


def _differ(found: tuple[float, ...], expected: tuple[float, ...]) -> str | None:
    if len(found) != len(expected):
        return f"{len(found)} tokens for {len(expected)}"
    distances = [abs(one - other) for one, other in zip(found, expected, strict=True)]
    worst = max(distances, default=0.0)
    if worst > TOLERANCE:
        return f"log probabilities differ by {worst:.1e} from token {_first(distances)} on"
    return None


def _first(distances: list[float]) -> int:
    return next(index for index, distance in enumerate(distances) if distance > TOLERANCE)
