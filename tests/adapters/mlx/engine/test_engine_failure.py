"""The engine's thread fails: every request is told, health tells it, and a new thread begins."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_model import KINDS, config_for, write_tiny_model
from fakes.waiting import until

from adapters import sink
from adapters.errors import BackendTimeoutError, BackendUnavailableError
from adapters.events import Event, Finished, Started
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.jobs import Pieces
from adapters.request import GenerationRequest, Sampling, TokenIds


class BrokenClock:
    """The engine's own code reads it between the steps of models: raises there if it is told to."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.error: BaseException | None = None
        self.before_error: Callable[[], object] = bool
        self.raised = threading.Event()

    def __call__(self) -> float:
        if threading.current_thread().name == "mlx-engine" and self.error is not None:
            error, self.error = self.error, None
            self.before_error()
            self.raised.set()
            raise error
        return time.monotonic() + self.offset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_tiny_model(root / "llama", context=100_000)
    write_tiny_model(root / "other")
    return root


@pytest.fixture
def clock() -> BrokenClock:
    return BrokenClock()


@pytest.fixture
def engine(folder: Path, clock: BrokenClock) -> Engine:
    return Engine(config_for(folder, max_concurrent=2), clock=clock, slice_seconds=0.0)


@pytest.fixture
async def backend(folder: Path, engine: Engine) -> AsyncGenerator[MLXBackend]:
    config = config_for(folder, max_concurrent=2)
    async with aclosing(MLXBackend(config, engine=engine)) as backend:
        yield backend


def request(**fields: Any) -> GenerationRequest:
    given = {"max_tokens": 50_000, "sampling": Sampling(logit_bias={257: -100.0}), **fields}
    return GenerationRequest(model="llama", prompt=TokenIds((5, 6, 7)), **given)


async def answer(backend: MLXBackend, **fields: Any) -> list[Event]:
    return [event async for event in sink.events(backend, request(**fields))]


async def fail(
    backend: MLXBackend, engine: Engine, clock: BrokenClock, error: BaseException
) -> list[object]:
    """Fail the thread while two requests run and two wait; return what they got."""
    answers = [asyncio.create_task(answer(backend)) for _ in range(4)]

    begun = engine.counters()["started"]
    await until(
        lambda: engine.counters()["started"] >= begun + 4 and engine.counters()["tokens"] > 0
    )
    clock.error = error
    return await asyncio.gather(*answers, return_exceptions=True)


@pytest.mark.parametrize("error", [ValueError("a fault"), SystemExit(3)], ids=["error", "exit"])
async def test_every_request_gets_an_error_and_the_next_one_an_answer(
    backend: MLXBackend, engine: Engine, clock: BrokenClock, error: BaseException
) -> None:
    for outcome in await fail(backend, engine, clock, error):
        assert isinstance(outcome, BackendUnavailableError)
        assert outcome.retry_after is not None
        assert type(error).__name__ in outcome.message
    health = await backend.health()
    assert (health.ok, health.breaker, health.counters["restarts"]) == (False, "half-open", 1)
    assert health.counters["active"] == 0
    assert [model.loaded for model in await backend.list_models()] == [False] * 2
    events = await answer(backend, max_tokens=3)
    assert events[0] == Started(context=100_000, cold=True, prompt_tokens=3, cached_tokens=0)
    assert isinstance(events[-1], Finished)
    health = await backend.health()
    assert (health.ok, health.breaker, health.counters["restarts"]) == (True, "closed", 1)


async def fail_idle(backend: MLXBackend, engine: Engine, clock: BrokenClock) -> None:
    """Fail the thread before its next step."""
    await backend.load("llama")
    losses = engine.losses
    clock.error = ValueError("a fault")
    engine.run(lambda: None)
    await until(lambda: engine.losses > losses)


async def test_engine_that_keeps_failing_is_left_alone_for_a_while(
    backend: MLXBackend, engine: Engine, clock: BrokenClock
) -> None:
    for _ in range(2):
        await fail_idle(backend, engine, clock)
        assert backend.is_well("llama")
    await fail_idle(backend, engine, clock)
    assert not backend.is_well("llama")
    assert (await backend.health()).breaker == "open"
    with pytest.raises(BackendUnavailableError) as caught:
        await answer(backend)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 1
    clock.offset = 1.5
    assert backend.is_well("llama")
    assert isinstance((await answer(backend, max_tokens=3))[-1], Finished)
    assert (await backend.health()).ok


async def test_load_in_progress_gets_an_error_when_the_engine_fails(
    backend: MLXBackend, clock: BrokenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    model_class: Any = KINDS["llama"][0].Model
    create = model_class.__init__

    def held(*args: Any, **kwargs: Any) -> None:
        entered.set()
        go_on.wait(30)
        create(*args, **kwargs)

    await backend.load("other")
    with monkeypatch.context() as patch:
        patch.setattr(model_class, "__init__", held)
        load = asyncio.create_task(backend.load("llama"))
        await until(entered.is_set)
        clock.error = ValueError("a fault")
        go_on.set()
        with pytest.raises(BackendUnavailableError):
            await load
    await backend.load("llama")


@pytest.mark.slow
async def test_requests_of_an_engine_that_hangs_in_a_load_are_told(
    backend: MLXBackend, engine: Engine, clock: BrokenClock
) -> None:
    await backend.load("llama")
    reached, disk_responds = threading.Event(), threading.Event()

    def read_disk() -> Pieces[None]:
        reached.set()
        disk_responds.wait(20)
        yield

    engine.run_in_pieces(read_disk)
    assert await asyncio.to_thread(reached.wait, 20)
    waiting = [asyncio.create_task(answer(backend)), asyncio.create_task(backend.load("other"))]
    clock.offset = 1000.0
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in told] == [BackendTimeoutError] * 2
    assert str(told[0]).startswith("Stalled")
    assert not backend.is_well("llama")
    disk_responds.set()
    await until(lambda: not backend.is_stalled())
    assert isinstance((await answer(backend, max_tokens=2))[-1], Finished)


async def test_command_that_waits_when_the_thread_ends_is_refused(
    backend: MLXBackend, engine: Engine, clock: BrokenClock
) -> None:
    def read() -> Pieces[None]:
        yield

    waiting: list[Future[None]] = []
    clock.before_error = lambda: waiting.append(engine.run_beside(read))
    await fail_idle(backend, engine, clock)
    with pytest.raises(BackendUnavailableError):
        await asyncio.wait_for(asyncio.wrap_future(waiting[0]), 10)
