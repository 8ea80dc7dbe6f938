"""Compare `backends.mlx.engine: process` with `thread`, and rendering in a worker with rendering in
the server: `uv run python -m tools.engine_process`.

Rounds of both alternate, because a busy machine changes by the minute; the ratios are medians.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

sys.path[:0] = ["tests"]

from fakes.tiny_model import write_tiny_model

from adapters import open_backend
from adapters.backend import Backend
from adapters.chat_template.confined import RENDERERS
from adapters.chat_template.jinja import render_template
from adapters.config import MLXConfig
from adapters.events import Event, Started, TextDelta
from adapters.request import GenerationRequest, Message, Sampling, TextPart

ENGINES: tuple[Literal["thread", "process"], ...] = ("thread", "process")
TEMPLATES = Path("tests/data/chat-templates")


class _Answer:
    """A sink that notes the time of the first text."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.tokens = 0

    def write(self, event: Event, /) -> bool:
        if isinstance(event, TextDelta):
            self.first = self.first or time.perf_counter()
        self.tokens += not isinstance(event, Started)
        return False

    async def drain(self) -> None:
        """Nothing waits."""


async def _answer(backend: Backend, model: str, tokens: int) -> tuple[float, float]:
    """Return the seconds to the first text and those of the whole answer."""
    messages = (Message(role="user", content=(TextPart("Count to a hundred."),)),)
    request = GenerationRequest(
        model=model,
        prompt=messages,
        max_tokens=tokens,
        sampling=Sampling(temperature=1.0, seed=3, logit_bias={257: -100.0, 2: -100.0}),
    )
    answer, began = _Answer(), time.perf_counter()
    await backend.generate(request, answer)
    return (answer.first or began) - began, time.perf_counter() - began


async def _rate(backend: Backend, model: str, clients: int, tokens: int) -> tuple[float, float]:
    """Return tokens per second of all clients, and the median time to the first text."""
    began = time.perf_counter()
    answers = await asyncio.gather(*(_answer(backend, model, tokens) for _ in range(clients)))
    rate = clients * tokens / (time.perf_counter() - began)
    return rate, statistics.median(first for first, _ in answers)


async def compare(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        write_tiny_model(Path(root) / "tiny", context=8192)
        async with AsyncExitStack() as stack:
            backends: dict[str, Backend] = {}
            for engine in ENGINES:
                config = MLXConfig(engine=engine, folders=(root,), embedded="always")
                backend = await stack.enter_async_context(open_backend(config))
                began = time.perf_counter()
                models = [model.name for model in await backend.list_models()]
                listed = time.perf_counter()
                for model in models:
                    await backend.load(model)
                print(
                    f"{engine}: listed after {listed - began:.2f} s, all loaded after "
                    f"{time.perf_counter() - listed:.2f} s more"
                )
                backends[engine] = backend
            for model in ("tiny", "SmolLM2-135M-Instruct"):
                tokens = 400 if model == "tiny" else 48
                for clients in (1, 8):
                    await _compare_rate(backends, model, clients, tokens, rounds)
    print(f"resident memory of the server with both: {_resident(os.getpid()) / 2**20:.0f} MiB")


async def _compare_rate(
    backends: dict[str, Backend], model: str, clients: int, tokens: int, rounds: int
) -> None:
    rates: dict[str, list[float]] = {engine: [] for engine in backends}
    firsts: dict[str, list[float]] = {engine: [] for engine in backends}
    for number in range(rounds + 1):
        for engine, backend in backends.items():
            rate, first = await _rate(backend, model, clients, tokens)
            if number:  # The first round warms up.
                rates[engine].append(rate)
                firsts[engine].append(first)
    ratios = [p / t for t, p in zip(rates["thread"], rates["process"], strict=True)]
    added = [p - t for t, p in zip(firsts["thread"], firsts["process"], strict=True)]
    print(
        f"{model}, {clients} clients: process/thread tokens per second "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"{statistics.median(rates['thread']):.0f} and {statistics.median(rates['process']):.0f}; "
        f"time to the first text {1000 * statistics.median(added):+.1f} ms"
    )


def _resident(process: int) -> int:
    """Bytes of resident memory, from Linux's /proc."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def compare_rendering(rounds: int) -> None:
    """Print the median time of a rendering in the server and in a worker, alternating."""
    for name in ("Qwen-Qwen3-0.6B", "meta-llama-Llama-3.2-3B-Instruct"):
        text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        for turns in (1, 50):
            chat = [
                {"role": role, "content": "What is the weather like in Ushuaia? " * 8}
                for _ in range(turns)
                for role in ("user", "assistant")
            ][:-1]
            arguments = {"add_generation_prompt": True, "bos_token": "<s>"}
            ways: dict[str, Callable[..., Any]] = {
                "server": render_template,
                "worker": RENDERERS.render,
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, render in ways.items():
                    began = time.perf_counter()
                    render(text, chat, None, arguments)
                    times[way].append(time.perf_counter() - began)
            server, worker = (statistics.median(times[way]) * 1000 for way in ways)
            print(
                f"{name}, {len(chat)} messages: {server:.2f} ms in the server, "
                f"{worker:.2f} ms in a worker"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds: int = parser.parse_args().rounds
    compare_rendering(40 * rounds)
    asyncio.run(compare(rounds))
    print(f"load of the machine: {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
