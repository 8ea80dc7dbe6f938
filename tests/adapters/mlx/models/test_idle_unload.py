"""How long an unused model stays loaded: what the request says, the model's entry, the default."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_model import answer, chat, config_for, told
from fakes.tiny_model import write_tiny_model

from adapters import sink
from adapters.errors import BackendBusyError, InvalidRequestError
from adapters.mlx.backend import MLXBackend

Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("plain", "other"):
        write_tiny_model(root / name)
    return root


@asynccontextmanager
async def opened(folder: Path, **fields: Any) -> AsyncGenerator[MLXBackend]:
    backend = MLXBackend(config_for(folder, **fields))
    try:
        yield backend
    finally:
        await backend.aclose()


async def loaded(backend: MLXBackend) -> set[str]:
    return {model.name for model in await backend.list_models() if model.loaded}


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await reached():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within ten seconds")


async def gone(backend: MLXBackend) -> bool:
    counters = (await backend.health()).counters
    return counters["loaded_models"] == 0 and not await loaded(backend)


async def test_models_stay_loaded_when_nobody_says_otherwise(folder: Path) -> None:
    async with opened(folder) as backend:
        await backend.load("plain")
        await answer(backend, chat(model="other"))
        await asyncio.sleep(0.1)
        assert await loaded(backend) == {"plain", "other"}


async def test_zero_unloads_at_once_after_the_answer(folder: Path) -> None:
    async with opened(folder) as backend:
        events = await answer(backend, chat(model="plain", keep_alive=0))
        assert told(events)["reason"] == "length"
        await until(lambda: gone(backend))
        counters = (await backend.health()).counters
        assert (counters["rows"], counters["active"]) == (0, 0)


async def test_zero_waits_for_the_others_who_are_answered(folder: Path) -> None:
    async with opened(folder) as backend:
        longer = sink.events(backend, chat(model="plain", max_tokens=450))
        await anext(longer)
        await answer(backend, chat(model="plain", keep_alive=0, max_tokens=2))
        await asyncio.sleep(0.05)
        assert await loaded(backend) == {"plain"}
        assert told([e async for e in longer if hasattr(e, "choice")])["reason"] == "length"
        await until(lambda: gone(backend))


async def test_the_seconds_count_from_the_last_answer(folder: Path) -> None:
    async with opened(folder, keep_alive=0.4) as backend:
        loop = asyncio.get_running_loop()
        for _ in range(4):
            await answer(backend, chat(model="plain", max_tokens=1))
            await asyncio.sleep(0.2)
            assert await loaded(backend) == {"plain"}
        ended = loop.time() - 0.2
        await until(lambda: gone(backend))
        assert loop.time() - ended >= 0.35


async def test_a_models_entry_counts_before_the_default(folder: Path) -> None:
    async with opened(folder, keep_alive=0, keep_alive_of={"plain": -1}) as backend:
        await backend.load("plain")
        await backend.load("other")

        async def alone() -> bool:
            return await loaded(backend) == {"plain"}

        await until(alone)
        await asyncio.sleep(0.05)
        assert await alone()


async def test_what_a_load_says_holds_for_requests_that_say_nothing(folder: Path) -> None:
    async with opened(folder, keep_alive=0) as backend:
        await backend.load("plain", keep_alive=-1)
        await answer(backend, chat(model="plain", max_tokens=1))
        await asyncio.sleep(0.1)
        assert await loaded(backend) == {"plain"}
        await backend.unload("plain")
        await backend.load("plain")
        await until(lambda: gone(backend))


async def test_a_client_that_leaves_uses_the_model_no_longer(folder: Path) -> None:
    async with opened(folder) as backend:
        stream = sink.events(backend, chat(model="plain", keep_alive=0, max_tokens=450))
        await anext(stream)
        with pytest.raises(BackendBusyError):
            await backend.unload("plain")
        await stream.aclose()
        await until(lambda: gone(backend))


async def test_requests_that_meet_an_unload_are_all_answered(folder: Path) -> None:
    async with opened(folder, keep_alive=0) as backend:
        for _ in range(5):
            several = [answer(backend, chat(model="plain", max_tokens=2)) for _ in range(4)]
            for events in await asyncio.gather(*several):
                assert told(events)["reason"] == "length"
            await asyncio.sleep(0)
        await until(lambda: gone(backend))


async def test_no_number_of_seconds_is_refused(folder: Path) -> None:
    async with opened(folder) as backend:
        with pytest.raises(InvalidRequestError) as caught:
            await answer(backend, chat(model="plain", keep_alive=math.nan))
        assert caught.value.param == "keep_alive"
