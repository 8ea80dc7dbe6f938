"""`tandem bench relay`: what it costs to put Tandem, or another relay, in front of an Ollama.

In place of the Ollama there is a process that replays one (`replayed_ollama.py`): it costs next to
nothing and never hesitates. Every contestant is up at once, and they take turns, so that a machine that
gets slower gets slower for all.
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
    Ask,
    Fetched,
    fetch,
    fetch_whole,
    ollama_body,
    openai_body,
)
from proxy.bench.developers.replayed_ollama import FAST, PACED
from proxy.bench.developers.tables import RelayRow, print_relays

_PACE = 0.02
"""Seconds from one word to the next."""
_CROWD = 64
_CHATS = "/v1/chat/completions"
_LITELLM = "from litellm import run_server; run_server()"


class RelayPlan(Struct, frozen=True):
    rounds: int
    litellm: str | None
    """The Python that has LiteLLM's proxy."""


class Load(Struct, frozen=True):
    """How much one measurement asks of each contestant."""

    clients: int
    words: int


_FULL = Load(4, 4000)
_ONE_BY_ONE = Load(8, 200)
_TOGETHER = Load(_CROWD, 100)
_REQUESTS = 200
_FEW = 8
"""Words of an answer where the words are not what is measured."""


class Relay(Struct, frozen=True):
    ask: Ask
    process: Process
    share: float = 1.0
    """Of the work that the others are given: one that is slow would take all night."""


class Seen(Struct):
    """What the rounds have shown of one relay: CPU in seconds for each word or request."""

    full: list[float] = []
    paced: list[float] = []
    whole: list[float] = []
    first: list[float] = []
    """Seconds that it adds to the first word."""
    crowd: list[float] = []
    """How long `_CROWD` answers take, over how long they take of the upstream itself."""


async def bench_relay(plan: RelayPlan) -> None:
    """Run `plan` and print its table.

    Raises:
        RuntimeError: a contestant did not start, or failed to answer.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as scratch:
        async with AsyncExitStack() as stack:
            log = stack.enter_context((Path(scratch) / "log").open("wb"))
            upstream = await stack.enter_async_context(_upstream(log))
            opened = [_plain(upstream, log), _tandem(upstream, Path(scratch), log)]
            names = ["plain relay", "Tandem"]
            if plan.litellm:
                opened.append(_litellm(plan.litellm, upstream, Path(scratch), log))
                names.append("LiteLLM")
            relays = {
                name: await stack.enter_async_context(each)
                for name, each in zip(names, opened, strict=True)
            }
            print_relays(_rows(await _rounds(upstream, relays, plan.rounds)))


async def _rounds(upstream: Ask, relays: dict[str, Relay], rounds: int) -> dict[str, Seen]:
    seen = {name: Seen() for name in relays}
    for relay in relays.values():
        await _all(relay.ask, FAST, Load(4, 200))
        await fetch_whole(relay.ask, FAST, _FEW, 20)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for measure in (_at_full_speed, _word_by_word, _not_streamed, _first_words, _in_a_crowd):
            for name, relay in relays.items():
                await measure(upstream, relay, seen[name])
    return seen


async def _at_full_speed(_upstream: Ask, relay: Relay, seen: Seen) -> None:
    load = Load(_FULL.clients, int(_FULL.words * relay.share))
    seen.full.append(await _cost(relay, lambda: _words(relay.ask, FAST, load)))


async def _word_by_word(_upstream: Ask, relay: Relay, seen: Seen) -> None:
    seen.paced.append(await _cost(relay, lambda: _words(relay.ask, PACED, _ONE_BY_ONE)))


async def _not_streamed(_upstream: Ask, relay: Relay, seen: Seen) -> None:
    times = int(_REQUESTS * relay.share)

    async def work() -> int:
        await fetch_whole(relay.ask, FAST, _FEW, times)
        return times

    seen.whole.append(await _cost(relay, work))


async def _first_words(upstream: Ask, relay: Relay, seen: Seen) -> None:
    """In turns, one by one: what each adds is small beside what the machine does meanwhile."""
    for _ in range(int(_REQUESTS * relay.share)):
        direct = await fetch(upstream, FAST, _FEW)
        seen.first.append((await fetch(relay.ask, FAST, _FEW)).first - direct.first)


async def _in_a_crowd(upstream: Ask, relay: Relay, seen: Seen) -> None:
    direct = await _all(upstream, PACED, _TOGETHER)
    through = await _all(relay.ask, PACED, _TOGETHER)
    seen.crowd.append(_total(through) / _total(direct))


def _total(answers: Sequence[Fetched]) -> float:
    return statistics.median(answer.total for answer in answers)


async def _cost(relay: Relay, work: Callable[[], Awaitable[int]]) -> float:
    """Seconds of the relay's CPU for each of the things that `work` has done and counted."""
    before = cpu_seconds(relay.process.pid)
    count = await work()
    return (cpu_seconds(relay.process.pid) - before) / count


async def _words(ask: Ask, model: str, load: Load) -> int:
    await _all(ask, model, load)
    return load.clients * load.words


async def _all(ask: Ask, model: str, load: Load) -> Sequence[Fetched]:
    return await asyncio.gather(*(fetch(ask, model, load.words) for _ in range(load.clients)))


def _rows(seen: dict[str, Seen]) -> list[RelayRow]:
    return [
        RelayRow(
            contestant=name,
            full=statistics.median(each.full),
            paced=statistics.median(each.paced),
            whole=statistics.median(each.whole),
            first=statistics.median(each.first),
            crowd=statistics.median(each.crowd),
        )
        for name, each in seen.items()
    ]


@asynccontextmanager
async def _upstream(log: BinaryIO) -> AsyncGenerator[Ask]:
    port = free_port()
    command = ("-P", "-m", "proxy.bench.developers.replayed_ollama", str(port), str(_PACE))
    async with running(sys.executable, *command, log=log):
        await listening(port)
        yield Ask(port, "/api/chat", ollama_body)


@asynccontextmanager
async def _relay(
    *command: str, port: int, log: BinaryIO, share: float = 1.0
) -> AsyncGenerator[Relay]:
    async with running(*command, log=log) as child:
        await listening(port)
        yield Relay(Ask(port, _CHATS, openai_body), child, share)


@asynccontextmanager
async def _plain(upstream: Ask, log: BinaryIO) -> AsyncGenerator[Relay]:
    port = free_port()
    command = ("-P", "-m", "proxy.bench.developers.plain_relay", str(port), _url(upstream))
    # By name: the proxy knows no engine.
    client = ("adapters.ollama.baseline", "OfficialChat")
    async with _relay(sys.executable, *command, *client, port=port, log=log) as relay:
        yield relay


@asynccontextmanager
async def _tandem(upstream: Ask, scratch: Path, log: BinaryIO) -> AsyncGenerator[Relay]:
    file, port = scratch / "tandem.yaml", free_port()
    file.write_text(json.dumps({"backends": {"mlx": False, "ollama": {"host": _url(upstream)}}}))
    command = ("-P", "-m", "proxy", "serve", "--port", str(port), "--config", str(file))
    async with _relay(sys.executable, *command, port=port, log=log) as relay:
        yield relay


@asynccontextmanager
async def _litellm(
    python: str, upstream: Ask, scratch: Path, log: BinaryIO
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


def _url(upstream: Ask) -> str:
    return f"http://127.0.0.1:{upstream.port}"
