"""`tandem bench routing`: compare the router's choices with always using one backend.

Backends and time are simulated: an answer advances the clock by its duration, so that figures are
exact and hours take no time. The router is the one of the server.
"""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

from msgspec import Struct, field

from adapters.request import GenerationRequest, Message, TextPart
from proxy.bench.developers.paced_backend import MODEL, Pace, PacedBackend
from proxy.bench.results import Report
from proxy.models.registry import Registry
from proxy.record import Record
from proxy.routing.measurements import Measurements
from proxy.routing.router import Router
from proxy.sinks import Collector

SETTLING = 20
"""Requests of each prompt length before the choice is measured."""
_TRIALS = 8
"""Requests at the beginning that the router distributes over the backends to measure them."""
_TEN_MINUTES = 600.0
_NOISE = 0.2
_SEED = 4


class Scene(Struct, frozen=True):
    """Speeds of mlx and ollama, for each part of the scene."""

    name: str
    parts: tuple[tuple[Pace, Pace], ...]


_ONE, _TWO = Pace(seconds=1.0), Pace(seconds=2.0)


class RoutingPlan(Struct, frozen=True, kw_only=True):
    scenes: tuple[Scene, ...] = (
        Scene("ollama takes twice as long", ((_ONE, _TWO),)),
        Scene("mlx takes half as long again", ((Pace(seconds=1.5), _ONE),)),
        Scene("both take as long", ((_ONE, _ONE),)),
        Scene("mlx reads slowly", ((Pace(seconds=0.6, per_word=0.002), _ONE),)),
        Scene("mlx slows down", ((_ONE, Pace(seconds=1.5)), (_TWO, Pace(seconds=1.5)))),
        Scene("they change places", ((_ONE, _TWO), (_TWO, _ONE))),
    )
    prompts: tuple[int, ...] = (20, 300, 1000)
    """Prompt lengths in words, each of which is a token here."""
    requests: int = 2 * SETTLING
    """Number of requests per prompt length in each part of a scene."""


class RoutingRow(Struct, frozen=True, kw_only=True):
    """Mean seconds per answer for one prompt length in a part of a scene, after `SETTLING`."""

    scene: str
    part: int
    prompt: int
    mlx: float
    ollama: float
    auto: float
    changes: int
    """Changes of backend between consecutive requests, after the first `_TRIALS` of the scene. A
    retry of the other backend counts as two."""

    @property
    def ratio(self) -> float:
        """Time of the router's choices relative to the faster backend."""
        return self.auto / min(self.mlx, self.ollama)


class Clock:
    """Simulated clock, which advances only by `sleep`."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Series(Struct):
    """Durations and backends of the answers to prompts of one length."""

    seconds: list[float] = field(default_factory=list[float])
    kinds: list[str] = field(default_factory=list[str])


class Contestant:
    """A model name to send requests to, with a router and measurements of its own."""

    def __init__(self, registry: Registry, model: str, clock: Clock) -> None:
        self._router = Router(registry, Measurements(clock=clock), clock=clock)
        self._clock = clock
        self._model = model
        self.series: dict[int, Series] = {}

    async def ask(self, words: int) -> None:
        prompt = (Message(role="user", content=(TextPart("word " * words),)),)
        record = Record(clock=self._clock)
        request = GenerationRequest(model=self._model, prompt=prompt)
        await self._router.generate(request, Collector(), record)
        series = self.series.setdefault(words, Series())
        series.seconds.append(self._clock() - record.arrived_at)
        series.kinds.append(record.backend)


async def bench_routing(plan: RoutingPlan, report: Report) -> list[RoutingRow]:
    rows: list[RoutingRow] = []
    for at, scene in enumerate(plan.scenes):
        report(scene.name, at, len(plan.scenes))
        rows += await _run(scene, plan)
    return rows


async def _run(scene: Scene, plan: RoutingPlan) -> list[RoutingRow]:
    """Send each request to all contestants in turn, with the same random noise."""
    noise, clock = random.Random(_SEED), Clock()  # noqa: S311
    rows: list[RoutingRow] = []
    async with _engines(clock) as (registry, engines):
        names = (MODEL, f"mlx/{MODEL}", f"ollama/{MODEL}")
        contestants = [Contestant(registry, name, clock) for name in names]
        for part, paces in enumerate(scene.parts):
            clock.now += _TEN_MINUTES
            for engine, pace in zip(engines, paces, strict=True):
                engine.pace = pace
            for _ in range(plan.requests):
                await _round(plan.prompts, engines, contestants, noise)
            rows += [_row(scene, part, words, contestants, plan) for words in plan.prompts]
    return rows


async def _round(
    prompts: Sequence[int],
    engines: Sequence[PacedBackend],
    contestants: Sequence[Contestant],
    noise: random.Random,
) -> None:
    for words in prompts:
        for engine in engines:
            engine.noise = noise.uniform(1 - _NOISE, 1 + _NOISE)
        for contestant in contestants:
            await contestant.ask(words)


@asynccontextmanager
async def _engines(clock: Clock) -> AsyncGenerator[tuple[Registry, Sequence[PacedBackend]]]:
    engines = [PacedBackend(kind, _ONE, clock.sleep) for kind in ("mlx", "ollama")]
    registry = Registry({}, period=3600.0)
    async with registry.open({}, {engine.kind: engine for engine in engines}):
        await registry.refresh(1.0)
        yield registry, engines


def _row(
    scene: Scene, part: int, words: int, contestants: Sequence[Contestant], plan: RoutingPlan
) -> RoutingRow:
    begins, ends = part * plan.requests, (part + 1) * plan.requests
    auto, mlx, ollama = (contestant.series[words] for contestant in contestants)
    kinds = auto.kinds[begins if part else _TRIALS : ends]
    return RoutingRow(
        scene=scene.name,
        part=part,
        prompt=words,
        mlx=_mean(mlx.seconds[begins + SETTLING : ends]),
        ollama=_mean(ollama.seconds[begins + SETTLING : ends]),
        auto=_mean(auto.seconds[begins + SETTLING : ends]),
        changes=sum(one != other for one, other in pairwise(kinds)),
    )


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def lines(rows: Sequence[RoutingRow]) -> list[str]:
    """Render the table, and the worst figures of the router."""
    columns = ("scene", "part", "prompt", "mlx s", "ollama s", "auto s", "of better", "changes")
    table = [
        f"| {row.scene} | {row.part + 1} | {row.prompt} | {row.mlx:.2f} | {row.ollama:.2f} "
        f"| {row.auto:.2f} | {row.ratio:.2f} | {row.changes} |"
        for row in rows
    ]
    return [
        "Simulated backends and clock, no model: an answer takes a set time, with random noise of",
        f"up to 20 %. Means after {SETTLING} requests of a prompt length; ten minutes between",
        "the parts.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *table,
        "",
        f"Worst case: {max(row.ratio for row in rows):.2f} of the faster backend's time, "
        f"{max(row.changes for row in rows)} changes of backend in a part.",
    ]
