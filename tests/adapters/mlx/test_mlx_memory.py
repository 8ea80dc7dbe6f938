"""Memory accounting of MLX: estimates, usage, limits."""

import asyncio
import sys
from pathlib import Path

import pytest
from fakes.engine_client import ForwardPasses, Shape
from fakes.scripted_model import answer, chat, told
from fakes.tiny_model import config_for, write_tiny_model
from mlx_lm.models import llama

from adapters import sink
from adapters.config import MLXConfig, MLXModel
from adapters.errors import BackendBusyError, InsufficientMemoryError
from adapters.memory import Footprint
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.memory import MLXMemory
from adapters.mlx.models.bundled import EMBEDDED
from proxy.memory.budget import SharedBudget

pytestmark = pytest.mark.slow

CONTEXT, BYTES_PER_TOKEN = 512, 256
ROW = CONTEXT * BYTES_PER_TOKEN


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("one", "two", "three"):
        write_tiny_model(root / name, context=CONTEXT)
    write_tiny_model(root / "long", context=8192)
    return root


@pytest.fixture
def config(folder: Path) -> MLXConfig:
    return config_for(folder, models={"guessed": MLXModel(base="one", draft="two")})


async def only(memory_user: MLXMemory) -> Footprint:
    [resident] = await memory_user.resident()
    return resident.footprint


@pytest.mark.parametrize("name", ["one", "long", "guessed"])
async def test_what_was_foreseen_is_what_is_taken(backend: MLXBackend, name: str) -> None:
    foreseen = await backend.memory_user.footprint(name)
    await backend.load(name)
    assert foreseen == await only(backend.memory_user)
    assert foreseen is not None
    assert foreseen.known > ROW


@pytest.mark.usefixtures("smollm2_folder")
async def test_the_embedded_model_is_foreseen_once_it_was_converted() -> None:
    backend = MLXBackend(MLXConfig(embedded="always", huggingface_cache=False))
    try:
        foreseen = await backend.memory_user.footprint(EMBEDDED)
    finally:
        await backend.aclose()
    assert foreseen is not None
    assert foreseen.weights is not None
    assert foreseen.weights > 4 * 134_000_000


async def test_nothing_is_known_of_a_model_that_is_not_there(backend: MLXBackend) -> None:
    assert await backend.memory_user.footprint("none") is None
    assert await backend.memory_user.resident() == []


async def test_who_is_answered_is_busy_and_stays(backend: MLXBackend) -> None:
    stream = sink.events(backend, chat(model="one", max_tokens=400))
    await anext(stream)
    assert [each.busy for each in await backend.memory_user.resident()] == [True]
    with pytest.raises(BackendBusyError):
        await backend.memory_user.unload_for_memory("one")
    await stream.aclose()
    assert [each.busy for each in await backend.memory_user.resident()] == [False]
    await backend.memory_user.unload_for_memory("one")
    assert await backend.memory_user.resident() == []


async def test_the_last_used_is_told_from_those_before(backend: MLXBackend) -> None:
    for name in ("one", "two", "one"):
        await answer(backend, chat(model=name, max_tokens=1))
    used = {each.name: each.used_at for each in await backend.memory_user.resident()}
    assert used["one"] > used["two"]


async def test_caches_are_trimmed_to_what_is_left_and_stay_there(backend: MLXBackend) -> None:
    words = "word " * 60
    await answer(backend, chat(words, model="one", max_tokens=1))
    [before] = await backend.memory_user.resident()
    assert before.cache > 0
    assert await backend.memory_user.confine(ROW) == ROW
    [after] = await backend.memory_user.resident()
    assert after.cache == 0
    await answer(backend, chat(words, model="one", max_tokens=1))
    await backend.memory_user.confine(ROW)
    [later] = await backend.memory_user.resident()
    assert later.cache == 0


@pytest.mark.long
async def test_rows_wait_for_memory_and_are_all_answered(
    backend: MLXBackend, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.load("one")
    await backend.load("two")
    # Each model always has its one answer; there is room for one more.
    await backend.memory_user.confine(3 * ROW)
    most = 0

    def watch(_shape: Shape) -> None:
        nonlocal most
        most = max(most, engine.pool.taken)

    ForwardPasses(monkeypatch, llama.Model).before = watch
    asked = [chat(model=name, max_tokens=450) for name in ("one", "two") for _ in range(4)]
    answers = await asyncio.gather(*(answer(backend, each) for each in asked))
    assert [told(each)["reason"] for each in answers] == ["length"] * 8
    assert 2 * ROW < most <= 3 * ROW


async def test_an_answer_that_never_fits_is_refused(backend: MLXBackend) -> None:
    await backend.load("long")
    await backend.memory_user.confine(5000 * BYTES_PER_TOKEN)
    with pytest.raises(InsufficientMemoryError, match="are reserved"):
        await answer(backend, chat(model="long", max_tokens=6000))
    assert told(await answer(backend, chat(model="long", max_tokens=2)))["reason"] == "length"


async def test_models_make_way_for_a_long_answer(backend: MLXBackend) -> None:
    weights = 107_392
    memory = SharedBudget(2 * weights + 5000 * BYTES_PER_TOKEN, frozenset(), 60.0)
    async with memory.open({"mlx": backend.memory_user}):
        await backend.load("one")
        await backend.load("long")
        stream = sink.events(backend, chat(model="long", max_tokens=5200))
        await anext(stream)
        assert [each.name for each in await backend.memory_user.resident()] == ["long"]
        assert (await memory.snapshot()).used > weights + 5200 * BYTES_PER_TOKEN
        await stream.aclose()
        with pytest.raises(InsufficientMemoryError, match="'long' needs") as caught:
            await answer(backend, chat(model="long", max_tokens=7000))
        assert str(memory.budget) in caught.value.message


async def test_models_take_turns_where_one_fits(backend: MLXBackend) -> None:
    memory = SharedBudget(300_000, frozenset(), 60.0)
    async with memory.open({"mlx": backend.memory_user}):
        for name in ("one", "two", "three", "one"):
            await answer(backend, chat("word " * 60, model=name, max_tokens=2))
            assert [each.name for each in await backend.memory_user.resident()] == [name]
            assert (await memory.snapshot()).used <= 300_000


async def test_a_refused_load_reads_nothing_and_can_be_tried_again(backend: MLXBackend) -> None:
    memory = SharedBudget(300_000, frozenset(), 60.0)
    async with memory.open({"mlx": backend.memory_user}):
        stream = sink.events(backend, chat(model="one", max_tokens=450))
        await anext(stream)
        with pytest.raises(InsufficientMemoryError, match="'two' needs 238464 bytes"):
            await answer(backend, chat(model="two"))
        assert (await backend.health()).counters["loads"] == 1
        await stream.aclose()
        assert told(await answer(backend, chat(model="two", max_tokens=2)))["reason"] == "length"


async def test_no_device_recommends_anything_on_a_cpu(
    backend: MLXBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await backend.memory_user.recommended() is None
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert await backend.memory_user.recommended() is None
    told = {"max_recommended_working_set_size": 11_453_251_584}
    monkeypatch.setattr("mlx.core.device_info", lambda: told)
    assert await backend.memory_user.recommended() == 11_453_251_584


async def test_a_machine_whose_mlx_is_broken_recommends_nothing(
    backend: MLXBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setitem(sys.modules, "adapters.mlx.device", None)
    assert await backend.memory_user.recommended() is None
