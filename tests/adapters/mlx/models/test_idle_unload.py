"""Unloading of unused models: by the request, the model's entry, the default."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_model import answer, chat, told
from fakes.tiny_model import config_for, write_tiny_model

from adapters import sink
from adapters.config import MLXConfig
from adapters.errors import BackendBusyError, InvalidRequestError
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.idle_unload import IdleUnload

pytestmark = pytest.mark.slow

Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("plain", "other"):
        write_tiny_model(root / name)
    return root


async def loaded(backend: MLXBackend) -> set[str]:
    return {model.name for model in await backend.list_models() if model.loaded}


class WatchedEngine(Engine):
    """Reports each model that was unloaded."""

    def __init__(self, config: MLXConfig) -> None:
        super().__init__(config)
        self.unloaded: asyncio.Queue[str] = asyncio.Queue()

    def unload(self, name: str) -> "Future[None]":
        loop, unloaded = asyncio.get_running_loop(), super().unload(name)
        unloaded.add_done_callback(
            lambda _: loop.call_soon_threadsafe(self.unloaded.put_nowait, name)
        )
        return unloaded


@asynccontextmanager
async def opened(folder: Path, **fields: Any) -> AsyncGenerator[tuple[MLXBackend, WatchedEngine]]:
    config = config_for(folder, **fields)
    engine = WatchedEngine(config)
    async with aclosing(MLXBackend(config, engine=engine)) as backend:
        yield backend, engine


async def gone(backend: MLXBackend, engine: WatchedEngine) -> None:
    """Wait until no model is loaded."""
    while await loaded(backend) or engine.counters()["loaded_models"]:
        await engine.unloaded.get()


class FakeTimer:
    def __init__(self, due: float, run: Callable[[], None]) -> None:
        self.due, self.run, self.cancelled = due, run, False

    def cancel(self) -> None:
        self.cancelled = True

    def when(self) -> float:
        return self.due


class Models:
    """Models that are loaded, unloaded by `idle` as its timers expire."""

    def __init__(self, *names: str, **fields: Any) -> None:
        self.loaded = set(names)
        self.now = 0.0
        self._timers: list[FakeTimer] = []
        self._unloaded: asyncio.Queue[str] = asyncio.Queue()
        config = MLXConfig(**fields)
        self.idle = IdleUnload(config, self.loaded.__contains__, self._unload, self._call_later)

    def _call_later(self, seconds: float, callback: Callable[[str], None], name: str) -> FakeTimer:
        self._timers.append(FakeTimer(self.now + seconds, lambda: callback(name)))
        return self._timers[-1]

    async def _unload(self, name: str) -> None:
        self.loaded.discard(name)
        self.idle.forget(name)
        self._unloaded.put_nowait(name)

    def use(self, name: str, keep_alive: float | None = None) -> None:
        with self.idle.using(name, keep_alive):
            pass

    async def after(self, seconds: float) -> set[str]:
        """Let so much time pass; return the models that are left."""
        self.now += seconds
        due = [timer for timer in self._timers if timer.due <= self.now and not timer.cancelled]
        self._timers = [timer for timer in self._timers if timer not in due]
        for timer in due:
            timer.run()
            await self._unloaded.get()
        return self.loaded


async def test_models_stay_loaded_by_default() -> None:
    models = Models("plain")
    models.use("plain")
    assert await models.after(1e9) == {"plain"}


async def test_the_seconds_count_from_the_last_answer() -> None:
    models = Models("plain", keep_alive=40)
    for _ in range(4):
        models.use("plain")
        assert await models.after(39) == {"plain"}
    assert await models.after(1) == set()


async def test_time_of_the_unloading_is_known_while_unused() -> None:
    models = Models("plain", keep_alive=40)
    models.use("plain")
    assert models.idle.expires_at("plain") == 40
    with models.idle.using("plain", None):
        assert models.idle.expires_at("plain") is None


async def test_a_models_own_time_counts_before_the_default() -> None:
    models = Models("plain", "other", keep_alive=0, keep_alive_of={"plain": -1})
    models.use("plain")
    models.use("other")
    assert await models.after(1e9) == {"plain"}


async def test_the_time_of_a_request_holds_until_the_model_is_unloaded() -> None:
    models = Models("plain", keep_alive=5)
    models.use("plain", keep_alive=-1)
    models.use("plain")
    assert await models.after(1e9) == {"plain"}
    models.idle.forget("plain")
    models.use("plain")
    assert await models.after(5) == set()


async def test_no_model_is_unloaded_while_it_is_used() -> None:
    models = Models("plain")
    with models.idle.using("plain", None):
        models.use("plain", keep_alive=0)
        assert await models.after(1e9) == {"plain"}
    assert await models.after(0) == set()


async def test_a_pinned_model_stays_and_goes_by_its_earlier_time_when_it_is_let_go() -> None:
    models = Models("plain", keep_alive=0)
    models.use("plain", keep_alive=40)
    models.idle.set_pinned("plain", True)
    models.use("plain")
    assert await models.after(1e9) == {"plain"}
    models.idle.set_pinned("plain", False)
    assert await models.after(39) == {"plain"}
    assert await models.after(1) == set()


async def test_a_pin_counts_before_the_configuration_and_zero_before_the_pin() -> None:
    models = Models("plain", keep_alive=0)
    models.idle.set_pinned("plain", True)
    models.use("plain")
    assert await models.after(1e9) == {"plain"}
    models.use("plain", keep_alive=0)
    assert await models.after(0) == set()


async def test_a_load_without_callers_starts_the_time() -> None:
    models = Models("plain", keep_alive=5)
    models.idle.loaded("plain")
    assert await models.after(4) == {"plain"}
    assert await models.after(1) == set()


async def test_zero_unloads_at_once_after_the_answer(folder: Path) -> None:
    async with opened(folder) as (backend, engine):
        events = await answer(backend, chat(model="plain", keep_alive=0))
        assert told(events)["reason"] == "length"
        await gone(backend, engine)
        counters = (await backend.health()).counters
        assert (counters["rows"], counters["active"]) == (0, 0)


async def test_a_client_that_leaves_uses_the_model_no_longer(folder: Path) -> None:
    async with opened(folder) as (backend, engine):
        stream = sink.events(backend, chat(model="plain", keep_alive=0, max_tokens=450))
        await anext(stream)
        with pytest.raises(BackendBusyError):
            await backend.unload("plain")
        await stream.aclose()
        await gone(backend, engine)


async def test_requests_that_meet_an_unload_are_all_answered(folder: Path) -> None:
    async with opened(folder, keep_alive=0) as (backend, engine):
        for _ in range(5):
            several = [answer(backend, chat(model="plain", max_tokens=2)) for _ in range(4)]
            for events in await asyncio.gather(*several):
                assert told(events)["reason"] == "length"
            await asyncio.sleep(0)  # The turn in which the model expires.
        await gone(backend, engine)


async def test_no_number_of_seconds_is_refused(folder: Path) -> None:
    async with opened(folder) as (backend, _):
        with pytest.raises(InvalidRequestError) as caught:
            await answer(backend, chat(model="plain", keep_alive=math.nan))
        assert caught.value.param == "keep_alive"
