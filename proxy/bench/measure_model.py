"""`tandem bench MODEL`: measure every backend that has the model with the same prompts.

The benchmark calls the backends of a server in its own process, within the same memory budget:
HTTP would add the same cost to each. The backends take turns within a round, so that changes of
the machine's speed affect all of them.
"""

import asyncio
import secrets
import statistics
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from msgspec import Struct

from adapters.backend import Backend
from adapters.errors import BackendError, ContextLengthError, ModelNotFoundError
from adapters.request import GenerationRequest, Message, Sampling, TextPart
from proxy.assembly import Parts, assemble, opened
from proxy.bench.machine import this_machine
from proxy.bench.results import (
    BenchRow,
    Length,
    Report,
    Result,
    Round,
    Scenario,
    percentile,
    to_contestant,
)
from proxy.config import Config
from proxy.models.registry import Deployment, RegisteredModel
from proxy.record import Attempt
from proxy.routing.measurements import Measurement, to_measurement
from proxy.sinks import CheckedSink, Collector

_LIST_TIMEOUT = 10.0
_UNLOAD_TIMEOUT = 10.0
"""Seconds: the longest wait until an unloaded model is no longer listed as loaded."""
_POLL_INTERVAL = 0.05

_LONG_PROMPT_DAYS = 12
"""Sentences in a long prompt, of about 45 tokens each."""


class ModelPlan(Struct, frozen=True, kw_only=True):
    """Settings of one run; `clients` are the numbers of concurrent requests to measure."""

    model: str
    clients: tuple[int, ...] = (1, 4, 8)
    rounds: int = 3
    max_tokens: int = 64

    def scenarios(self, longest: Length) -> list[Scenario]:
        """List the scenarios for prompts up to `longest`, those that unload the model last."""
        lengths: tuple[Length, ...] = ("short", "long") if longest == "long" else ("short",)
        warm = [Scenario("warm", length, n) for length in lengths for n in self.clients]
        cold = [Scenario("cold", "short", n) for n in self.clients]
        return [*warm, Scenario("again", longest, 1), *cold]


class _Turn(Struct, frozen=True):
    """Concurrent answers of one backend in one round."""

    measured: tuple[Measurement, ...]
    seconds: float
    """From the first request to the end of the last answer."""


async def bench_model(
    config: Config, plan: ModelPlan, report: Report, backends: Mapping[str, Backend] | None = None
) -> Result:
    """Measure `plan.model` on each backend that has it.

    Without `backends`, the backends of `config` are opened and closed; with `backends`, these are
    used and stay open.

    Raises:
        RuntimeError: no backend has the model, or a backend failed.
    """
    parts = assemble(config)
    async with opened(parts, config, backends):
        entry = await _find(plan.model, parts)
        runners = [_Runner(deployment, parts) for deployment in entry.deployments]
        rows = await _rows(runners, plan, report)
        # A model converted for its first answer has its origin listed only now.
        entry = await _find(plan.model, parts)
        versions = {one.deployment.backend: (await one.backend.health()).version for one in runners}
        return Result(
            model=entry.id,
            measured_at=int(time.time()),
            max_tokens=plan.max_tokens,
            machine=this_machine({kind: version for kind, version in versions.items() if version}),
            contestants=tuple(to_contestant(deployment) for deployment in entry.deployments),
            same_weights=entry.same_weights,
            rows=tuple(rows),
        )


async def _find(model: str, parts: Parts) -> RegisteredModel:
    """Return the model with its deployments on reachable backends."""
    await parts.registry.refresh(_LIST_TIMEOUT)
    try:
        entry = await parts.router.find(model)
    except ModelNotFoundError as error:
        raise RuntimeError(f"{error.message} `tandem models` lists all.") from error
    except BackendError as error:
        raise RuntimeError(error.message) from error
    return entry.among(kind for kind, listed in parts.registry.backends.items() if listed.reached)


async def _rows(runners: Sequence["_Runner"], plan: ModelPlan, report: Report) -> list[BenchRow]:
    # Random, so that prefix caches have no prompt of an earlier run.
    run = secrets.token_hex(4)
    longest = await _warm_up(runners, plan, run, report)
    rows: list[BenchRow] = []
    scenarios = plan.scenarios(longest)
    for at, scenario in enumerate(scenarios):
        turns: dict[str, list[_Turn]] = {runner.deployment.backend: [] for runner in runners}
        for number in range(plan.rounds):
            text = f"{scenario.to_text()}, round {number + 1} of {plan.rounds}"
            report(text, at * plan.rounds + number, len(scenarios) * plan.rounds)
            # The same prompts for each backend, different ones in each round.
            key = f"{run}.{at}.{number}"
            prompts = [make_prompt(scenario.prompt, f"{key}.{i}") for i in range(scenario.clients)]
            # The first position rotates: after a pause the machine may be cooler and faster.
            first = number % len(runners)
            for runner in (*runners[first:], *runners[:first]):
                turn = await runner.turn(scenario, prompts, plan.max_tokens)
                turns[runner.deployment.backend].append(turn)
        rows.extend(_to_row(kind, scenario, measured) for kind, measured in turns.items())
    return rows


async def _warm_up(
    runners: Sequence["_Runner"], plan: ModelPlan, run: str, report: Report
) -> Length:
    """Load the model on each backend; return the longest prompt that fits all contexts."""
    longest: Length = "long"
    for runner in runners:
        kind = runner.deployment.backend
        report(f"{kind} loads {runner.deployment.name}", 0, 0)
        if await runner.warm_up(run, plan.max_tokens) == "short":
            report(f"long prompts are left out: they exceed the context of {kind}", 0, 0)
            longest = "short"
    return longest


class _Runner:
    """Runs prompts on one deployment of the model."""

    def __init__(self, deployment: Deployment, parts: Parts) -> None:
        self.deployment = deployment
        self.backend = parts.registry.backends[deployment.backend].backend
        self._memory = parts.memory

    async def warm_up(self, run: str, max_tokens: int) -> Length:
        """Load the model with the context that the measurements need.

        Returns the length of the prompt: `long`, or `short` where a long one does not fit.
        """
        with self._fatal_errors():
            try:
                await self._ask_all([make_prompt("long", f"{run}.warm-up")], max_tokens)
                return "long"
            except ContextLengthError:
                await self._ask_all([make_prompt("short", f"{run}.warm-up")], max_tokens)
                return "short"

    async def turn(self, scenario: Scenario, prompts: Sequence[str], max_tokens: int) -> _Turn:
        with self._fatal_errors():
            await self._prepare(scenario, prompts)
            return await self._ask_all(prompts, max_tokens)

    async def _prepare(self, scenario: Scenario, prompts: Sequence[str]) -> None:
        match scenario.state:
            case "warm":
                await self.backend.load(self.deployment.name)
            case "again":
                await self._ask_all(prompts, 1)
            case "cold":
                await self._unload()

    async def _unload(self) -> None:
        """Unload the model, and wait until it is no longer loaded: Ollama answers before that."""
        await self.backend.unload(self.deployment.name)
        deadline = time.monotonic() + _UNLOAD_TIMEOUT
        while time.monotonic() < deadline:
            models = await self.backend.list_models()
            if not any(model.loaded for model in models if model.name == self.deployment.name):
                return
            await asyncio.sleep(_POLL_INTERVAL)

    async def _ask_all(self, prompts: Sequence[str], max_tokens: int) -> _Turn:
        began = time.perf_counter()
        attempts = await asyncio.gather(
            *(self._ask(prompt, max_tokens, len(prompts)) for prompt in prompts)
        )
        seconds = time.perf_counter() - began
        memory = await self._memory.footprint(self.deployment.backend, self.deployment.name)
        return _Turn(tuple([to_measurement(attempt, memory) for attempt in attempts]), seconds)

    async def _ask(self, prompt: str, max_tokens: int, concurrency: int) -> Attempt:
        # Templates may add a default system message; with an explicit one the prompts are the same.
        system = Message(role="system", content=(TextPart("You tell stories."),))
        message = Message(role="user", content=(TextPart(prompt),))
        request = GenerationRequest(
            model=self.deployment.name,
            prompt=(system, message),
            sampling=Sampling(temperature=0),
            max_tokens=max_tokens,
        )
        attempt = Attempt(self.deployment.backend, self.deployment.name)
        attempt.concurrency = concurrency
        checked = CheckedSink(Collector(), attempt)
        await self.backend.generate(request, checked)
        checked.end()
        return attempt

    @contextmanager
    def _fatal_errors(self) -> Generator[None]:
        """Turn errors into a `RuntimeError` that names the backend and ends the benchmark."""
        try:
            yield
        except BackendError as error:
            raise RuntimeError(f"{self.deployment.backend}: {error.message}") from error


def _to_row(backend: str, scenario: Scenario, turns: Sequence[_Turn]) -> BenchRow:
    measured = [one for turn in turns for one in turn.measured]
    rounds = tuple(map(_to_round, turns))
    first = [one.ttft for one in measured]
    return BenchRow(
        backend=backend,
        scenario=scenario,
        prompt_tokens=int(statistics.median(one.prompt_tokens for one in measured)),
        answers=len(measured),
        loads=sum(one.cold for one in measured),
        ttft_p50_s=statistics.median(first),
        ttft_p95_s=percentile(first, 95),
        tokens_per_second=_median_speed(measured),
        together=statistics.median(one.together for one in rounds),
        memory_bytes=max((one.memory for one in measured if one.memory), default=None),
        rounds=rounds,
    )


def _to_round(turn: _Turn) -> Round:
    first = [one.ttft for one in turn.measured]
    return Round(
        ttft_p50_s=statistics.median(first),
        ttft_p95_s=percentile(first, 95),
        tokens_per_second=_median_speed(turn.measured),
        together=sum(one.completion_tokens for one in turn.measured) / turn.seconds,
    )


def _median_speed(measured: Sequence[Measurement]) -> float | None:
    speeds = [one.tokens_per_second for one in measured if one.tokens_per_second is not None]
    return statistics.median(speeds) if speeds else None


def make_prompt(length: Length, key: str) -> str:
    """Write a prompt that differs from others of its length only by `key`.

    The key comes first, so that prefix caches have no part of a new prompt.
    """
    task = "Write a long story about what the keeper of the lighthouse saw next, in detail."
    if length == "short":
        return f"Note {key}: the harbour was quiet that morning, and the boats lay still. {task}"
    days = " ".join(
        f"On day {day} of log {key} the wind came from the west, {day + 2} boats lay along "
        "the pier, and gulls walked between the ropes and the empty crates until the evening bell."
        for day in range(1, _LONG_PROMPT_DAYS + 1)
    )
    return f"Note {key}, the log of a harbour. {days} {task}"
