"""`tandem bench MODEL`: the same prompts on each backend that has the model, in turns.

In this process, by the backends that a server would ask, within the same memory budget: HTTP would
cost both alike and tell nothing of either. The backends take turns, so that a machine that gets
slower gets slower for all, and each prompt is put to each of them.
"""

import asyncio
import secrets
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

from msgspec import Struct

from adapters.backend import Backend
from adapters.errors import BackendError, ContextLengthError
from adapters.request import GenerationRequest, Message, Sampling, TextPart
from proxy.assembly import Parts, assemble, opened
from proxy.bench.machine import this_machine
from proxy.bench.percentiles import percentile
from proxy.bench.prompts import Length, question
from proxy.bench.results import BenchRow, Result, Round, Scenario, to_contestant
from proxy.config import Config
from proxy.models.registry import Deployment, RegisteredModel
from proxy.routing.measurements import Measurement, Watch
from proxy.sinks import closing, each

_LISTING_SECONDS = 10.0
_LEAVING_SECONDS = 10.0
"""How long an unloaded model may take to be gone."""
_LOOK_SECONDS = 0.05

Say = Callable[[str], None]
"""What is being done, for somebody who waits."""


class ModelPlan(Struct, frozen=True, kw_only=True):
    model: str
    clients: tuple[int, ...] = (1, 4, 8)
    rounds: int = 3
    max_tokens: int = 64

    def scenarios(self, longest: Length) -> list[Scenario]:
        """With prompts of up to that length. Those that unload the model come last."""
        lengths: tuple[Length, ...] = ("short", "long") if longest == "long" else ("short",)
        warm = [Scenario("warm", length, n) for length in lengths for n in self.clients]
        cold = [Scenario("cold", "short", n) for n in self.clients]
        return [*warm, Scenario("again", longest, 1), *cold]


class _Turn(Struct, frozen=True):
    """One backend's answers to one round of questions, which were asked at once."""

    measured: tuple[Measurement, ...]
    seconds: float
    """From the first question to the last word."""


async def bench_model(
    config: Config, plan: ModelPlan, say: Say, backends: Mapping[str, Backend] | None = None
) -> Result:
    """Measure `plan.model` on each backend that has it. Backends that are given are used as they
    are, and not closed.

    Raises:
        RuntimeError: nobody has the model, or a backend failed: then there is nothing to compare.
    """
    parts = assemble(config)
    async with opened(parts, config, backends):
        entry = await _find(plan.model, parts)
        sides = [_Side(deployment, parts) for deployment in entry.deployments]
        rows = await _rows(sides, plan, say)
        # What was converted for its first answer tells only now where it is from.
        entry = await _find(plan.model, parts)
        return Result(
            model=entry.id,
            measured_at=int(time.time()),
            max_tokens=plan.max_tokens,
            machine=this_machine(await _versions(sides)),
            contestants=tuple(to_contestant(deployment) for deployment in entry.deployments),
            same_weights=entry.same_weights,
            rows=tuple(rows),
        )


async def _find(model: str, parts: Parts) -> RegisteredModel:
    """The model, on the backends that are there."""
    await parts.registry.refresh(_LISTING_SECONDS)
    try:
        entry = await parts.router.find(model)
    except BackendError as error:
        raise RuntimeError(error.message) from error
    return entry.among(kind for kind, listed in parts.registry.backends.items() if listed.reached)


async def _versions(sides: Sequence["_Side"]) -> dict[str, str]:
    told = {side.deployment.backend: (await side.backend.health()).version for side in sides}
    return {kind: version for kind, version in told.items() if version}


async def _rows(sides: Sequence["_Side"], plan: ModelPlan, say: Say) -> list[BenchRow]:
    # So that no prompt of an earlier run is still in a cache.
    run = secrets.token_hex(4)
    longest = await _warm_up(sides, plan, run, say)
    rows: list[BenchRow] = []
    for at, scenario in enumerate(plan.scenarios(longest)):
        turns: dict[str, list[_Turn]] = {side.deployment.backend: [] for side in sides}
        for number in range(plan.rounds):
            say(f"{scenario.in_words()}, round {number + 1} of {plan.rounds}")
            prompts = _prompts(scenario, f"{run}.{at}.{number}")
            for side in _in_turn(sides, number):
                turn = await side.turn(scenario, prompts, plan.max_tokens)
                turns[side.deployment.backend].append(turn)
        rows.extend(_to_row(kind, scenario, found) for kind, found in turns.items())
    return rows


async def _warm_up(sides: Sequence["_Side"], plan: ModelPlan, run: str, say: Say) -> Length:
    """How long the prompts may be that all have room for."""
    longest: Length = "long"
    for side in sides:
        say(f"{side.deployment.backend} loads {side.deployment.name}")
        if await side.warm_up(run, plan.max_tokens) == "short":
            say(
                f"{side.deployment.backend} has too short a context for long prompts: "
                "they are left out"
            )
            longest = "short"
    return longest


def _in_turn(sides: Sequence["_Side"], number: int) -> Sequence["_Side"]:
    """Who goes first changes, for the first after a pause may find the machine cooler."""
    first = number % len(sides)
    return (*sides[first:], *sides[:first])


def _prompts(scenario: Scenario, key: str) -> list[str]:
    """The same for each backend, unlike those of any other round."""
    return [question(scenario.prompt, f"{key}.{at}") for at in range(scenario.clients)]


class _Side:
    """A model on the backend that has it."""

    def __init__(self, deployment: Deployment, parts: Parts) -> None:
        self.deployment = deployment
        self.backend = parts.registry.backends[deployment.backend].backend
        self._memory = parts.memory

    async def warm_up(self, run: str, max_tokens: int) -> Length:
        """With a long prompt, so that what is loaded has the context that all others need; with a
        short one where that does not fit. Returns which it was."""
        with self._blamed():
            try:
                await self._ask_all([question("long", f"{run}.warm-up")], max_tokens)
                return "long"
            except ContextLengthError:
                await self._ask_all([question("short", f"{run}.warm-up")], max_tokens)
                return "short"

    async def turn(self, scenario: Scenario, prompts: Sequence[str], max_tokens: int) -> _Turn:
        with self._blamed():
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
        """And see it gone: Ollama says that it will, and does it later."""
        await self.backend.unload(self.deployment.name)
        until = time.monotonic() + _LEAVING_SECONDS
        while time.monotonic() < until:
            models = await self.backend.list_models()
            if not any(model.loaded for model in models if model.name == self.deployment.name):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ask_all(self, prompts: Sequence[str], max_tokens: int) -> _Turn:
        began = time.perf_counter()
        asked = (self._ask(prompt, max_tokens) for prompt in prompts)
        watches = await asyncio.gather(*asked)
        seconds = time.perf_counter() - began
        memory = await self._memory.footprint(self.deployment.backend, self.deployment.name)
        measured = [
            watch.measurement(
                self.deployment.backend,
                self.deployment.name,
                len(prompts),
                lambda _kind, _name: memory,
            )
            for watch in watches
        ]
        return _Turn(tuple(measured), seconds)

    async def _ask(self, prompt: str, max_tokens: int) -> Watch:
        # With one of their own both engines' templates make the same prompt.
        system = Message(role="system", content=(TextPart("You tell stories."),))
        message = Message(role="user", content=(TextPart(prompt),))
        request = GenerationRequest(
            model=self.deployment.name,
            prompt=(system, message),
            sampling=Sampling(temperature=0),
            max_tokens=max_tokens,
        )
        watch = Watch(request.n)
        async with closing(events := each(self.backend.generate(request), request.n)):
            async for event in events:
                watch.see(event)
        return watch

    @contextmanager
    def _blamed(self) -> Generator[None]:
        """A benchmark of errors would be worth nothing."""
        try:
            yield
        except BackendError as error:
            raise RuntimeError(f"{self.deployment.backend}: {error.message}") from error


def _to_row(backend: str, scenario: Scenario, turns: Sequence[_Turn]) -> BenchRow:
    measured = [each for turn in turns for each in turn.measured]
    rounds = tuple(map(_to_round, turns))
    first = [each.ttft for each in measured]
    return BenchRow(
        backend=backend,
        scenario=scenario,
        prompt_tokens=int(statistics.median(each.prompt_tokens for each in measured)),
        answers=len(measured),
        loads=sum(each.cold for each in measured),
        ttft_p50_s=statistics.median(first),
        ttft_p95_s=percentile(first, 95),
        tokens_per_second=_median(measured),
        together=statistics.median(each.together for each in rounds),
        memory_bytes=max((each.memory for each in measured if each.memory), default=None),
        rounds=rounds,
    )


def _to_round(turn: _Turn) -> Round:
    first = [each.ttft for each in turn.measured]
    return Round(
        ttft_p50_s=statistics.median(first),
        ttft_p95_s=percentile(first, 95),
        tokens_per_second=_median(turn.measured),
        together=sum(each.completion_tokens for each in turn.measured) / turn.seconds,
    )


def _median(measured: Sequence[Measurement]) -> float | None:
    speeds = [each.tokens_per_second for each in measured if each.tokens_per_second is not None]
    return statistics.median(speeds) if speeds else None
