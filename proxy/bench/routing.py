"""Whether the engine that is chosen is the faster one, and stays so: `tandem bench routing`.

The engines are scripted, and so is the time: an answer puts the clock forward by what it is to
take, so that figures are exact and hours pass at once. What chooses is the server's own router.
"""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

from msgspec import Struct, field

from adapters.request import GenerationRequest, Message, TextPart
from proxy.bench.paced_backend import MODEL, Pace, PacedBackend
from proxy.models.registry import Registry
from proxy.routing.measurements import Measurements
from proxy.routing.router import Route, Router, Unwatched
from proxy.sinks import collect

SETTLING = 20
"""Requests of each length after which the choice has to be right."""
_TRIALS = 8
"""Requests of those that are shared out between the engines, at first."""
_TEN_MINUTES = 600.0
_NOISE = 0.2
_SEED = 4


class Scene(Struct, frozen=True):
    """How fast mlx and ollama are, part by part."""

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
    """Words; each is a token here."""
    requests: int = 2 * SETTLING
    """Of each length, in each part of a scene."""


class RoutingRow(Struct, frozen=True, kw_only=True):
    """Prompts of one length in a part of a scene. Seconds are means, once the choice settled."""

    scene: str
    part: int
    prompt: int
    mlx: float
    ollama: float
    auto: float
    changes: int
    """Of the engine, from one request to the next, without those that were shared out at first;
    one that is tried anew for a few answers makes two."""

    @property
    def ratio(self) -> float:
        """To the better engine."""
        return self.auto / min(self.mlx, self.ollama)


class Clock:
    """One that stands still but for those who sleep by it."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Series(Struct):
    """The answers to prompts of one length."""

    took: list[float] = field(default_factory=list[float])
    kinds: list[str] = field(default_factory=list[str])


class Contestant:
    """One way to ask, with measurements of its own."""

    def __init__(self, registry: Registry, model: str, clock: Clock) -> None:
        self._router = Router(registry, Measurements(clock=clock), clock=clock)
        self._clock = clock
        self._model = model
        self.series: dict[int, Series] = {}

    async def ask(self, words: int) -> None:
        prompt = (Message(role="user", content=(TextPart("word " * words),)),)
        began, seen = self._clock(), _Seen()
        request = GenerationRequest(model=self._model, prompt=prompt)
        await collect(self._router.generate(request, seen))
        series = self.series.setdefault(words, Series())
        series.took.append(self._clock() - began)
        series.kinds.append(seen.kind)


class _Seen(Unwatched):
    kind = ""

    def routed(self, route: Route) -> None:
        self.kind = route.backend_name


async def bench_routing(plan: RoutingPlan) -> list[RoutingRow]:
    return [row for scene in plan.scenes for row in await _run(scene, plan)]


async def _run(scene: Scene, plan: RoutingPlan) -> list[RoutingRow]:
    """Each way to ask in turn, request by request, so that chance is the same for all."""
    chance, clock = random.Random(_SEED), Clock()  # noqa: S311
    rows: list[RoutingRow] = []
    async with _engines(clock) as (registry, engines):
        names = (MODEL, f"mlx/{MODEL}", f"ollama/{MODEL}")
        contestants = [Contestant(registry, name, clock) for name in names]
        for part, paces in enumerate(scene.parts):
            clock.now += _TEN_MINUTES
            for engine, pace in zip(engines, paces, strict=True):
                engine.pace = pace
            for _ in range(plan.requests):
                await _round(plan.prompts, engines, contestants, chance)
            rows += [_row(scene, part, words, contestants, plan) for words in plan.prompts]
    return rows


async def _round(
    prompts: Sequence[int],
    engines: Sequence[PacedBackend],
    contestants: Sequence[Contestant],
    chance: random.Random,
) -> None:
    for words in prompts:
        for engine in engines:
            engine.noise = chance.uniform(1 - _NOISE, 1 + _NOISE)
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
        mlx=_mean(mlx.took[begins + SETTLING : ends]),
        ollama=_mean(ollama.took[begins + SETTLING : ends]),
        auto=_mean(auto.took[begins + SETTLING : ends]),
        changes=sum(one != other for one, other in pairwise(kinds)),
    )


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def lines(rows: Sequence[RoutingRow]) -> list[str]:
    """The table, and how good the choice was at worst."""
    columns = ("scene", "part", "prompt", "mlx s", "ollama s", "auto s", "of better", "changes")
    table = [
        f"| {row.scene} | {row.part + 1} | {row.prompt} | {row.mlx:.2f} | {row.ollama:.2f} "
        f"| {row.auto:.2f} | {row.ratio:.2f} | {row.changes} |"
        for row in rows
    ]
    return [
        "Scripted engines, no model: an answer takes a set time, 20 % more or less by chance, on a",
        f"clock that nobody waits for. Means after {SETTLING} requests of a length; ten minutes",
        "between the parts.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *table,
        "",
        f"At worst {max(row.ratio for row in rows):.2f} of the better engine's time, and "
        f"{max(row.changes for row in rows)} changes of engine in a part.",
    ]
