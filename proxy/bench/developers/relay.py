"""`tandem bench relay`: measure the cost of Tandem, or another relay, in front of an Ollama.

The upstream is a process that replays a recorded answer (`replayed_ollama.py`) at little CPU cost
and without pauses. All contestants run at the same time and take turns, so that changes of the
machine's speed affect all of them.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from proxy.bench.developers.child_process import cpu_seconds, free_port, listening, running
from proxy.bench.developers.relay_client import (
    Endpoint,
    Latency,
    fetch,
    ollama_body,
    openai_body,
    stream,
)
from proxy.bench.developers.replayed_ollama import FAST, PACED
from proxy.bench.developers.tables import RelayRow
from proxy.bench.results import Report

_PACE = 0.02
"""Seconds between two words of the paced upstream."""
_MANY_CLIENTS = 64
_CHATS = "/v1/chat/completions"
_LITELLM = "from litellm import run_server; run_server()"


class RelayPlan(Struct, frozen=True):
    rounds: int
    litellm: str | None
    """Path of a Python interpreter that has `litellm[proxy]` installed."""


class Load(Struct, frozen=True):
    """Concurrent requests and words per answer in one measurement."""

    clients: int
    words: int


_FULL_SPEED_LOAD = Load(4, 4000)
_PACED_LOAD = Load(8, 200)
_CROWD_LOAD = Load(_MANY_CLIENTS, 100)
_REQUESTS = 200
_SHORT_ANSWER = 8
"""Words per answer in measurements that count requests."""


class Relay(Struct, frozen=True):
    endpoint: Endpoint
    process: Process
    share: float = 1.0
    """Fraction of the full load, below 1 for a relay that would need hours for it."""


class Samples(Struct):
    """Measurements of one relay, one per round: CPU seconds per word or per request."""

    full: list[float] = []
    paced: list[float] = []
    whole: list[float] = []
    first: list[float] = []
    """Seconds that the relay adds to the time to the first word."""
    crowd: list[float] = []
    """Duration of `_MANY_CLIENTS` concurrent answers, relative to the upstream without a relay."""


async def bench_relay(plan: RelayPlan, report: Report) -> list[RelayRow]:
    """Run `plan`; returns a row for each relay.

    Raises:
        RuntimeError: a contestant did not start, or did not answer.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as scratch:
        async with AsyncExitStack() as stack:
            log = stack.enter_context((Path(scratch) / "log").open("wb"))
            upstream = await stack.enter_async_context(_upstream(log))
            contestants = [_plain(upstream, log), _tandem(upstream, Path(scratch), log)]
            names = ["plain relay", "Tandem"]
            if plan.litellm:
                contestants.append(_litellm(plan.litellm, upstream, Path(scratch), log))
                names.append("LiteLLM")
            relays = {
                name: await stack.enter_async_context(contestant)
                for name, contestant in zip(names, contestants, strict=True)
            }
            return _rows(await _rounds(upstream, relays, plan.rounds, report))


async def _rounds(
    upstream: Endpoint, relays: dict[str, Relay], rounds: int, report: Report
) -> dict[str, Samples]:
    samples = {name: Samples() for name in relays}
    for relay in relays.values():
        await _all(relay.endpoint, FAST, Load(4, 200))
        await fetch(relay.endpoint, FAST, _SHORT_ANSWER, 20)
    for number in range(rounds):
        for at, measure in enumerate(_MEASUREMENTS):
            done, total = number * len(_MEASUREMENTS) + at, rounds * len(_MEASUREMENTS)
            report(f"round {number + 1} of {rounds}", done, total)
            for name, relay in relays.items():
                await measure(upstream, relay, samples[name])
    return samples


async def _measure_full_speed(_upstream: Endpoint, relay: Relay, samples: Samples) -> None:
    load = Load(_FULL_SPEED_LOAD.clients, int(_FULL_SPEED_LOAD.words * relay.share))
    samples.full.append(await _cost(relay, lambda: _words(relay.endpoint, FAST, load)))


async def _measure_paced(_upstream: Endpoint, relay: Relay, samples: Samples) -> None:
    samples.paced.append(await _cost(relay, lambda: _words(relay.endpoint, PACED, _PACED_LOAD)))


async def _measure_not_streamed(_upstream: Endpoint, relay: Relay, samples: Samples) -> None:
    times = int(_REQUESTS * relay.share)

    async def work() -> int:
        await fetch(relay.endpoint, FAST, _SHORT_ANSWER, times)
        return times

    samples.whole.append(await _cost(relay, work))


async def _measure_first_word(upstream: Endpoint, relay: Relay, samples: Samples) -> None:
    """Alternate direct and relayed requests: the difference is small beside the machine's noise."""
    for _ in range(int(_REQUESTS * relay.share)):
        direct = await stream(upstream, FAST, _SHORT_ANSWER)
        samples.first.append(
            (await stream(relay.endpoint, FAST, _SHORT_ANSWER)).first - direct.first
        )


async def _measure_crowd(upstream: Endpoint, relay: Relay, samples: Samples) -> None:
    direct = await _all(upstream, PACED, _CROWD_LOAD)
    relayed = await _all(relay.endpoint, PACED, _CROWD_LOAD)
    samples.crowd.append(_median_total(relayed) / _median_total(direct))


def _median_total(answers: Sequence[Latency]) -> float:
    return statistics.median(answer.total for answer in answers)


_MEASUREMENTS = (
    _measure_full_speed,
    _measure_paced,
    _measure_not_streamed,
    _measure_first_word,
    _measure_crowd,
)


async def _cost(relay: Relay, work: Callable[[], Awaitable[int]]) -> float:
    """Return the relay's CPU seconds per unit of `work`, which returns its number of units."""
    before = cpu_seconds(relay.process.pid)
    count = await work()
    return (cpu_seconds(relay.process.pid) - before) / count


async def _words(endpoint: Endpoint, model: str, load: Load) -> int:
    await _all(endpoint, model, load)
    return load.clients * load.words


async def _all(endpoint: Endpoint, model: str, load: Load) -> Sequence[Latency]:
    return await asyncio.gather(*(stream(endpoint, model, load.words) for _ in range(load.clients)))


def _rows(samples: dict[str, Samples]) -> list[RelayRow]:
    return [
        RelayRow(
            contestant=name,
            full=statistics.median(sample.full),
            paced=statistics.median(sample.paced),
            whole=statistics.median(sample.whole),
            first=statistics.median(sample.first),
            crowd=statistics.median(sample.crowd),
        )
        for name, sample in samples.items()
    ]


@asynccontextmanager
async def _upstream(log: BinaryIO) -> AsyncGenerator[Endpoint]:
    port = free_port()
    command = ("-P", "-m", "proxy.bench.developers.replayed_ollama", str(port), str(_PACE))
    async with running(sys.executable, *command, log=log):
        await listening(port)
        yield Endpoint(port, "/api/chat", ollama_body)


@asynccontextmanager
async def _relay(
    *command: str, port: int, log: BinaryIO, share: float = 1.0
) -> AsyncGenerator[Relay]:
    async with running(*command, log=log) as child:
        await listening(port)
        yield Relay(Endpoint(port, _CHATS, openai_body), child, share)


@asynccontextmanager
async def _plain(upstream: Endpoint, log: BinaryIO) -> AsyncGenerator[Relay]:
    port = free_port()
    command = ("-P", "-m", "proxy.bench.developers.plain_relay", str(port), _url(upstream))
    # By name: `proxy` imports no engine.
    client = ("adapters.ollama.baseline", "OfficialChat")
    async with _relay(sys.executable, *command, *client, port=port, log=log) as relay:
        yield relay


@asynccontextmanager
async def _tandem(upstream: Endpoint, scratch: Path, log: BinaryIO) -> AsyncGenerator[Relay]:
    file, port = scratch / "tandem.yaml", free_port()
    file.write_text(json.dumps({"backends": {"mlx": False, "ollama": {"host": _url(upstream)}}}))
    command = ("-P", "-m", "proxy", "serve", "--port", str(port), "--config", str(file))
    async with _relay(sys.executable, *command, port=port, log=log) as relay:
        yield relay


@asynccontextmanager
async def _litellm(
    python: str, upstream: Endpoint, scratch: Path, log: BinaryIO
) -> AsyncGenerator[Relay]:
    file, port = scratch / "litellm.yaml", free_port()
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": f"ollama_chat/{name}", "api_base": _url(upstream)},
        }
        for name in (FAST, PACED)
    ]
    open_to_all = {"dangerously_permit_weak_or_unset_master_key": True}
    file.write_text(json.dumps({"model_list": models, "general_settings": open_to_all}))
    command = ("-c", _LITELLM, "--config", str(file), "--port", str(port), "--host", "127.0.0.1")
    async with _relay(python, *command, port=port, log=log, share=0.1) as relay:
        yield relay


def _url(upstream: Endpoint) -> str:
    return f"http://127.0.0.1:{upstream.port}"
