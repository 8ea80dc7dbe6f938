"""Running loads: progress, cancellation, and the state after a cancelled load."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from fakes.engine_client import EngineClient
from fakes.scripted_model import answer, chat, config_for, told
from fakes.tiny_model import write_tiny_model

from adapters.backend import Progress
from adapters.errors import BackendUnavailableError
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.load_progress import Loading
from adapters.mlx.sequence import Sequence
from adapters.request import Sampling
from proxy.models.load_progress import load

pytestmark = pytest.mark.slow


class Gates:
    """Holds every load at its second piece of weights until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_by(self) -> None:
        self.reached.set()
        assert self.opened.wait(10)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gates:
    gate, advance = Gates(), Loading.advance

    def waits(loading: Loading, nbytes: int) -> None:
        if loading.completed:
            gate.pass_by()
        advance(loading, nbytes)

    monkeypatch.setattr(Loading, "advance", waits)
    return gate


@pytest.fixture
async def backend(tmp_path: Path, gate: Gates) -> AsyncGenerator[MLXBackend]:
    write_tiny_model(tmp_path / "tiny")
    backend = MLXBackend(config_for(tmp_path))
    try:
        yield backend
    finally:
        gate.opened.set()
        await backend.aclose()


async def reach(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await reached():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within ten seconds")


async def loads(backend: MLXBackend) -> int:
    return (await backend.health()).counters["loads"]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[EngineClient]:
    """An engine that has loaded `first` and takes a step after each array of a load."""
    for name in ("first", "second"):
        write_tiny_model(tmp_path / name)
    client = EngineClient(Engine(config_for(tmp_path), slice_seconds=0.0))
    await client.load(tmp_path / "first")
    yield client
    await asyncio.to_thread(client.engine.close)


class HeldAdvance:
    """Holds a load at some of its arrays."""

    def __init__(self, patch: pytest.MonkeyPatch, *arrays: int) -> None:
        self.gates = {array: Gates() for array in arrays}
        self._count, advance = 0, Loading.advance

        def held(loading: Loading, nbytes: int) -> None:
            self._count += 1
            if (gate := self.gates.get(self._count)) is not None:
                gate.pass_by()
            advance(loading, nbytes)

        patch.setattr(Loading, "advance", held)


async def test_others_are_answered_while_a_model_is_loaded(
    client: EngineClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, end = HeldAdvance(monkeypatch, 1, 15).gates.values()
    loading = asyncio.create_task(client.load(tmp_path / "second"))
    await reach(begin.reached)
    sequence = Sequence("first", [1, 2, 3], 2, Sampling())
    client.submit(sequence)
    begin.opened.set()
    assert len(await client.tokens(sequence)) == 2
    assert not loading.done()
    end.opened.set()
    await loading


async def test_closing_waits_no_longer_than_it_may_and_ends_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(config_for(tmp_path), closing_seconds=0.0, slice_seconds=0.0)
    client = EngineClient(engine)
    [begin] = HeldAdvance(monkeypatch, 1).gates.values()
    loading = asyncio.create_task(client.load(write_tiny_model(tmp_path / "tiny")))
    await reach(begin.reached)
    engine.close()
    begin.opened.set()
    with pytest.raises(BackendUnavailableError, match="closed"):
        await loading


async def test_a_load_says_how_many_bytes_are_read(backend: MLXBackend, gate: Gates) -> None:
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


async def test_the_last_waiter_who_leaves_ends_the_load(backend: MLXBackend, gate: Gates) -> None:
    waiting = [asyncio.create_task(backend.load("tiny")) for _ in range(2)]
    await reach(gate.reached)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    gate.opened.set()

    async def ended() -> bool:
        return not backend.loading()

    await until(ended)
    assert await loads(backend) == 0
    assert [model.loaded for model in await backend.list_models()] == [False]


async def test_who_comes_to_a_load_that_is_given_up_has_one_anew(
    backend: MLXBackend, gate: Gates
) -> None:
    waiting = asyncio.create_task(backend.load("tiny"))
    await reach(gate.reached)
    waiting.cancel()
    await asyncio.wait([waiting])
    answering = asyncio.create_task(answer(backend, chat(model="tiny", max_tokens=3)))
    await asyncio.sleep(0)
    gate.opened.set()
    assert told(await answering)["reason"] == "length"
    assert await loads(backend) == 1


async def test_an_unload_ends_the_load_for_all_who_wait(backend: MLXBackend, gate: Gates) -> None:
    waiting = [asyncio.create_task(backend.load("tiny")) for _ in range(2)]
    await reach(gate.reached)
    unloading = asyncio.create_task(backend.unload("tiny"))
    await asyncio.sleep(0)
    gate.opened.set()
    await unloading
    for each in waiting:
        with pytest.raises(BackendUnavailableError, match="'tiny' was cancelled"):
            await each
    assert await loads(backend) == 0


async def test_closing_the_progress_gives_the_load_up(backend: MLXBackend, gate: Gates) -> None:
    before = asyncio.all_tasks()
    progress = load(backend, "tiny")
    await anext(progress)
    await reach(gate.reached)
    tasks = asyncio.all_tasks() - before
    await progress.aclose()
    # Its call of `Backend.load` has to end before the engine goes on with the two last arrays.
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    gate.opened.set()

    async def ended() -> bool:
        return not backend.loading()

    await until(ended)
    assert await loads(backend) == 0
