"""`tandem bench engine`: compare mlx-lm's `BatchGenerator`, `mlx_lm.server` and Tandem.

Each contestant is a process of its own with the same weights. All run at the same time and take
turns, so that changes of the machine's speed affect all of them. Prompts are not repeated, as a
prefix cache would make the second one faster. They share the beginning of the chat template, 28 of
84 tokens with SmolLM2: both servers cache it, the bare generator processes it each time.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from proxy.bench.developers.child_process import cpu_seconds, free_port, listening, running
from proxy.bench.developers.engine_client import Question, Target, Timing, ask, ask_all
from proxy.bench.developers.tables import EngineResult, Row, machine
from proxy.bench.results import Report, percentile

CLIENTS = (1, 2, 4, 8)
_BASELINE = ("-P", "-m", "adapters.mlx.baseline")
_LONG_ANSWER_FACTOR = 16
"""Length of the answers in progress when a newcomer arrives, as a multiple of `max_tokens`."""


class Plan(Struct, frozen=True):
    model: str
    tiny: bool
    rounds: int
    max_tokens: int
    newcomers: int
    clients: tuple[int, ...] = CLIENTS
    seconds: float = 180.0
    """No further round begins after this time of measuring, without the loading before it."""

    def steps(self) -> list[tuple[int, int]]:
        """Pairs of a round and a number of clients: a round ends before the next begins, so that
        there are figures at every number of clients when the time is up."""
        return [(number, clients) for number in range(self.rounds) for clients in self.clients]


class Outcome(Struct, frozen=True):
    """Answers of one contestant in one round."""

    timings: tuple[Timing, ...]
    cpu: float
    """CPU time of the contestant in seconds, over all its threads."""


Contestant = Callable[[Sequence[Question]], Awaitable[Outcome]]


class Schedule:
    """Steps of a measurement, reported as they begin, until the time is up."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self._until = time.monotonic() + plan.seconds
        self._total = len(plan.steps()) + plan.newcomers
        self._done = 0
        self._report = report

    def begin(self, text: str, *, needed: bool) -> bool:
        """Report a step, and return whether it is measured: in time, or `needed` for a figure."""
        begins = needed or time.monotonic() < self._until
        self._report(
            text if begins else f"left out, for want of time: {text}", self._done, self._total
        )
        self._done += 1
        return begins


async def bench_engine(plan: Plan, report: Report) -> EngineResult:
    """Run `plan`.

    Raises:
        RuntimeError: a contestant did not start, or did not answer.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as scratch:
        folder = Path(scratch) / "models" / "baseline"
        await _prepare(plan, folder)
        async with AsyncExitStack() as stack:
            log = stack.enter_context((Path(scratch) / "log").open("wb"))
            bare = await stack.enter_async_context(_bare(folder, log))
            peer, peer_target = await stack.enter_async_context(_mlx_lm_server(folder, log))
            tandem, target = await stack.enter_async_context(_tandem(folder, log))
            contestants = {"bare BatchGenerator": bare, "mlx_lm.server": peer, "Tandem": tandem}
            await _warm_up(contestants, plan, report)
            schedule = Schedule(plan, report)
            rows = await _rounds(contestants, plan, schedule)
            servers = {"mlx_lm.server": peer_target, "Tandem": target}
            newcomers = await _newcomers(servers, plan, schedule)
            return EngineResult(machine(), tuple(rows), newcomers)


async def compare_with_bare(plan: Plan, report: Report) -> list[Row]:
    """Measure the bare generator and Tandem, without `mlx_lm.server`.

    Raises:
        RuntimeError: as `bench_engine`.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as scratch:
        folder = Path(scratch) / "models" / "baseline"
        await _prepare(plan, folder)
        async with AsyncExitStack() as stack:
            log = stack.enter_context((Path(scratch) / "log").open("wb"))
            bare = await stack.enter_async_context(_bare(folder, log))
            tandem, _ = await stack.enter_async_context(_tandem(folder, log))
            contestants = {"bare BatchGenerator": bare, "Tandem": tandem}
            await _warm_up(contestants, plan, report)
            return await _rounds(contestants, plan, Schedule(plan, report))


async def _prepare(plan: Plan, folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    flags = ["--tiny"] if plan.tiny else []
    command = (*_BASELINE, "prepare", plan.model, str(folder), *flags)
    child = await asyncio.create_subprocess_exec(sys.executable, *command)
    if await child.wait():
        raise RuntimeError(f"'{plan.model}' cannot be prepared for the benchmark")


async def _warm_up(contestants: dict[str, Contestant], plan: Plan, report: Report) -> None:
    """Load the model, and compile its kernels for each batch size."""
    for name, run in contestants.items():
        report(f"{name} loads the model", 0, 0)
        for clients in plan.clients:
            await run(_questions("warm-up", clients, 4))


async def _rounds(contestants: dict[str, Contestant], plan: Plan, schedule: Schedule) -> list[Row]:
    names = list(contestants)
    outcomes = {(clients, name): list[Outcome]() for clients in plan.clients for name in names}
    for number, clients in plan.steps():
        text = f"{clients} at once, round {number + 1} of {plan.rounds}"
        if not schedule.begin(text, needed=number == 0):
            continue
        # The first position rotates: after a pause the machine may be cooler and faster.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            questions = _questions(f"{clients}.{number}", clients, plan.max_tokens)
            outcomes[clients, name].append(await contestants[name](questions))
    return [_to_row(name, clients, rounds) for (clients, name), rounds in outcomes.items()]


def _questions(round_name: str, clients: int, max_tokens: int) -> list[Question]:
    """Build the prompts of a round; they differ from those of every other round."""
    return [
        Question(
            f"Note {round_name}.{number}: the harbour was quiet that morning, and the boats lay in "
            "rows along the pier while gulls walked between the ropes and the empty crates. "
            "Write a long story about what the keeper of the lighthouse saw next, in detail.",
            max_tokens,
        )
        for number in range(clients)
    ]


def _to_row(name: str, clients: int, outcomes: Sequence[Outcome]) -> Row:
    timings = [timing for outcome in outcomes for timing in outcome.timings]
    gaps = [b - a for t in timings for a, b in zip(t.pieces, t.pieces[1:], strict=False)]
    first = [timing.pieces[0] - timing.began for timing in timings]
    tokens = sum(timing.tokens for timing in timings)
    return Row(
        contestant=name,
        clients=clients,
        tokens_per_second=statistics.median(map(_speed, outcomes)),
        first_token_p50=percentile(first, 50),
        first_token_p95=percentile(first, 95),
        gap_p99=percentile(gaps, 99),
        cpu_per_token=sum(outcome.cpu for outcome in outcomes) / tokens,
    )


def _speed(outcome: Outcome) -> float:
    began = min(timing.began for timing in outcome.timings)
    ended = max(timing.pieces[-1] for timing in outcome.timings)
    return sum(timing.tokens for timing in outcome.timings) / (ended - began)


async def _newcomers(
    servers: dict[str, Target], plan: Plan, schedule: Schedule
) -> dict[str, float]:
    """Return the median TTFT of a short request while two long answers run, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(plan.newcomers):
        text = f"a short request beside long answers, {number + 1} of {plan.newcomers}"
        if schedule.begin(text, needed=number == 0):
            for name, target in servers.items():
                times[name].append(await _newcomer(target, number, plan.max_tokens))
    return {name: statistics.median(values) for name, values in times.items() if values}


async def _newcomer(target: Target, number: int, max_tokens: int) -> float:
    questions = _questions(f"long {number}", 2, _LONG_ANSWER_FACTOR * max_tokens)
    first_texts = [asyncio.Event() for _ in questions]
    long = [
        asyncio.create_task(ask(target, question, event.set))
        for question, event in zip(questions, first_texts, strict=True)
    ]
    for event in first_texts:
        await event.wait()
    newcomer = await ask(target, Question(f"Say the number {number}.", 4))
    if any(task.done() for task in long):
        raise RuntimeError("a long answer ended too early: increase --max-tokens")
    for task in long:
        task.cancel()
    await asyncio.wait(long)
    return newcomer.pieces[0] - newcomer.began


@asynccontextmanager
async def _bare(folder: Path, log: BinaryIO) -> AsyncGenerator[Contestant]:
    async with running(
        sys.executable, *_BASELINE, "bare", str(folder), log=log, stdin=PIPE
    ) as child:

        async def run(questions: Sequence[Question]) -> Outcome:
            if child.stdin is None or child.stdout is None:
                raise RuntimeError("the bare generator has no pipes")
            prompts = [question.text for question in questions]
            job = {"prompts": prompts, "max_tokens": questions[0].max_tokens}
            child.stdin.write(json.dumps(job).encode() + b"\n")
            line = await child.stdout.readline()
            if not line:
                raise RuntimeError("the bare generator ended")
            result = json.loads(line)
            return Outcome(
                tuple(Timing(0.0, tuple(times), len(times)) for times in result["times"]),
                result["cpu"],
            )

        yield run


@asynccontextmanager
async def _mlx_lm_server(folder: Path, log: BinaryIO) -> AsyncGenerator[tuple[Contestant, Target]]:
    port = free_port()
    async with running(
        sys.executable, *_BASELINE, "server", str(folder), "--port", str(port), log=log
    ) as child:
        await listening(port)
        # The name under which mlx_lm.server serves the model it was started with.
        target = Target(port, "default_model")
        yield _contestant(target, child), target


@asynccontextmanager
async def _tandem(folder: Path, log: BinaryIO) -> AsyncGenerator[tuple[Contestant, Target]]:
    config = {
        "backends": {
            "ollama": False,
            "mlx": {"folders": [str(folder.parent)], "huggingface_cache": False},
        }
    }
    file = folder.parent.parent / "config.yaml"
    file.write_text(json.dumps(config))
    port = free_port()
    command = ("-P", "-m", "proxy", "serve", "--port", str(port), "--config", str(file))
    async with running(sys.executable, *command, log=log) as child:
        await listening(port)
        target = Target(port, folder.name)
        yield _contestant(target, child), target


def _contestant(target: Target, child: Process) -> Contestant:
    async def run(questions: Sequence[Question]) -> Outcome:
        before = cpu_seconds(child.pid)
        timings = await ask_all(target, questions)
        return Outcome(tuple(timings), cpu_seconds(child.pid) - before)

    return run
