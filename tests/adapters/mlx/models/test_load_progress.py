"""Running loads: progress, cancellation, and the state after a cancelled load."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fakes.engine_client import EngineClient
from fakes.scripted_model import answer, chat, told
from fakes.tiny_model import config_for, write_tiny_model

from adapters.backend import Progress
from adapters.config import MLXConfig
from adapters.errors import BackendBusyError, BackendUnavailableError
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.models.load_progress import Extras, Loading
from adapters.mlx.sequence import Sequence
from adapters.request import Sampling
from proxy.models.load_progress import load

pytestmark = pytest.mark.slow


class Gate:
    """Holds the thread that passes it until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self.opened = threading.Event()

    def pass_by(self) -> None:
        self._reached.set()
        assert self.opened.wait(10)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 10)


class HeldEngine(Engine):
    """An engine that pauses its loads at some of their arrays."""

    def __init__(self, config: MLXConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.gates: dict[int, Gate] = {}
        """Array of a load, counted from 1 -> its gate."""

    def load(self, path: Path, loading: Loading, extras: Extras) -> "Future[LoadedModel]":
        return super().load(path, HeldLoading(loading, self.gates), extras)


class HeldLoading(Loading):
    """Passes a gate before an array is counted by `loading`."""

    def __init__(self, loading: Loading, gates: Mapping[int, Gate]) -> None:
        super().__init__(loading.name)
        self.begin, self.check = loading.begin, loading.check
        self._loading, self._gates, self._arrays = loading, gates, 0

    def advance(self, nbytes: int) -> None:
        self._arrays += 1
        if gate := self._gates.get(self._arrays):
            gate.pass_by()
        self._loading.advance(nbytes)


@pytest.fixture
def config(tmp_path: Path) -> MLXConfig:
    write_tiny_model(tmp_path / "tiny")
    return config_for(tmp_path)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def backend(config: MLXConfig, gate: Gate) -> AsyncGenerator[MLXBackend]:
    """Holds each load at its second array until `gate` is opened."""
    engine = HeldEngine(config)
    engine.gates[2] = gate
    async with aclosing(MLXBackend(config, engine=engine)) as backend:
        yield backend
        gate.opened.set()


async def loads(backend: MLXBackend) -> int:
    return (await backend.health()).counters["loads"]


@pytest.fixture
def engine(config: MLXConfig) -> HeldEngine:
    """Takes a step after each array of a load."""
    return HeldEngine(config, slice_seconds=0.0)


@pytest.fixture
async def client(engine: HeldEngine, tmp_path: Path) -> AsyncGenerator[EngineClient]:
    """A client of `engine`, which has loaded `first`."""
    client = EngineClient(engine)
    await client.load(write_tiny_model(tmp_path / "first"))
    yield client
    await asyncio.to_thread(engine.close)


async def test_others_are_answered_while_a_model_is_loaded(
    client: EngineClient, engine: HeldEngine, tmp_path: Path
) -> None:
    begin, end = Gate(), Gate()
    engine.gates = {1: begin, 15: end}
    loading = asyncio.create_task(client.load(tmp_path / "tiny"))
    await begin.reached()
    sequence = Sequence("first", [1, 2, 3], 2, Sampling())
    client.submit(sequence)
    begin.opened.set()
    assert len(await client.tokens(sequence)) == 2
    assert not loading.done()
    end.opened.set()
    await loading


async def test_closing_waits_no_longer_than_it_may_and_ends_a_load(
    config: MLXConfig, tmp_path: Path
) -> None:
    engine = HeldEngine(config, closing_seconds=0.0, slice_seconds=0.0)
    engine.gates[1] = begin = Gate()
    client = EngineClient(engine)
    loading = asyncio.create_task(client.load(tmp_path / "tiny"))
    await begin.reached()
    engine.close()
    begin.opened.set()
    with pytest.raises(BackendUnavailableError, match="closed"):
        await loading


async def test_a_load_says_how_many_bytes_are_read(backend: MLXBackend, gate: Gate) -> None:
    seen: list[Progress] = []
    async with aclosing(load(backend, "tiny")) as progress:
        async for each in progress:
            seen.append(each)
            if each.completed:
                gate.opened.set()
    halfway = next(each for each in seen if each.completed)
    assert halfway.status == "loading"
    assert 0 < (halfway.completed or 0) < (halfway.total or 0)
    assert seen[-1] == Progress(status="success")
    assert backend.loading() == {}


async def test_the_last_waiter_who_leaves_ends_the_load(backend: MLXBackend, gate: Gate) -> None:
    before = asyncio.all_tasks()
    before = asyncio.all_tasks()
    waiting = [asyncio.create_task(backend.load("tiny")) for _ in range(2)]
    await gate.reached()
    tasks = asyncio.all_tasks() - before  # Those that wait, and the load.
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    assert backend.loading()
    gate.opened.set()
    await asyncio.wait(tasks)
    assert not backend.loading()
    assert await loads(backend) == 0
    assert [model.loaded for model in await backend.list_models()] == [False]


async def test_who_comes_to_a_load_that_is_given_up_has_one_anew(
    backend: MLXBackend, gate: Gate
) -> None:
    waiting = asyncio.create_task(backend.load("tiny"))
    await gate.reached()
    waiting.cancel()
    await asyncio.wait([waiting])
    answering = asyncio.create_task(answer(backend, chat(model="tiny", max_tokens=3)))
    await asyncio.sleep(0)
    gate.opened.set()
    assert told(await answering)["reason"] == "length"
    assert await loads(backend) == 1


async def test_an_unload_is_refused_while_a_request_waits_for_the_load(
    backend: MLXBackend, gate: Gate
) -> None:
    answering = asyncio.create_task(answer(backend, chat("Hi", "tiny", max_tokens=2)))
    await gate.reached()
    with pytest.raises(BackendBusyError, match="1 requests wait for 'tiny' to be loaded"):
        await backend.unload("tiny")
    gate.opened.set()
    assert await answering


async def test_an_unload_ends_the_load_for_all_who_wait(backend: MLXBackend, gate: Gate) -> None:
    waiting = [asyncio.create_task(backend.load("tiny")) for _ in range(2)]
    await gate.reached()
    unloading = asyncio.create_task(backend.unload("tiny"))
    await asyncio.sleep(0)
    gate.opened.set()
    await unloading
    for each in waiting:
        with pytest.raises(BackendUnavailableError, match="'tiny' was cancelled"):
            await each
    assert await loads(backend) == 0


async def test_closing_the_progress_gives_the_load_up(backend: MLXBackend, gate: Gate) -> None:
    before = asyncio.all_tasks()
    progress = load(backend, "tiny")
    await anext(progress)
    await gate.reached()
    tasks = asyncio.all_tasks() - before
    await progress.aclose()
    # Its call of `Backend.load` has to end before the engine goes on with the two last arrays.
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    gate.opened.set()
    await asyncio.wait(tasks)
    assert not backend.loading()
    assert await loads(backend) == 0
