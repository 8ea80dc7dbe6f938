"""A load: how far it is, who may end it, and what is left when it was ended."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from fakes.scripted_model import answer, chat, config_for, told
from fakes.tiny_model import write_tiny_model

from adapters.backend import Progress
from adapters.errors import BackendUnavailableError
from adapters.events import Finished
from adapters.mlx.backend import MLXBackend
from adapters.mlx.models.load_progress import Loading
from proxy.models.load_progress import load


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
async def two(tmp_path: Path) -> AsyncGenerator[MLXBackend]:
    for name in ("first", "second"):
        write_tiny_model(tmp_path / name)
    backend = MLXBackend(config_for(tmp_path))
    await backend.load("first")
    yield backend
    await backend.aclose()


@pytest.fixture
def at_work(two: MLXBackend, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the second load reads weights, which takes it a while."""
    at_work, advance = threading.Event(), Loading.advance

    def slow(loading: Loading, nbytes: int) -> None:
        at_work.set()
        time.sleep(0.04)
        advance(loading, nbytes)

    monkeypatch.setattr(Loading, "advance", slow)
    return at_work


async def test_others_are_answered_while_a_model_is_loaded(
    two: MLXBackend, at_work: threading.Event
) -> None:
    loaded = asyncio.create_task(two.load("second"))
    await reach(at_work)
    events = await answer(two, chat(model="first", max_tokens=1))
    assert isinstance(events[-1], Finished)
    assert not loaded.done()
    await loaded


async def test_closing_ends_a_load_that_has_begun(
    two: MLXBackend, at_work: threading.Event
) -> None:
    loaded = asyncio.create_task(two.load("second"))
    await reach(at_work)
    await asyncio.to_thread(two._engine.close)
    with pytest.raises(BackendUnavailableError, match="closed"):
        await loaded


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
    progress = load(backend, "tiny")
    await anext(progress)
    await reach(gate.reached)
    await progress.aclose()
    # The event loop has to hear of it before the engine goes on: both pieces that are left are
    # there in no time.
    await asyncio.sleep(0.1)
    gate.opened.set()

    async def ended() -> bool:
        return not backend.loading()

    await until(ended)
    assert await loads(backend) == 0
