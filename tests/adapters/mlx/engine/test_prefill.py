"""Prompts read alone and in company, without an answer."""

import asyncio
import random
import threading
from collections.abc import Sequence as Ordered
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.scripted_model import config_for
from fakes.tiny_model import write_tiny_model
from mlx_lm import utils
from mlx_lm.models.cache import make_prompt_cache

from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine import batching_window, scheduler
from adapters.mlx.engine.admission import Group
from adapters.mlx.engine.prefill import Prefill, Prefills, read
from adapters.mlx.sequence import Sequence
from adapters.request import Sampling

CHUNK, TOGETHER = 100, 300


def prefill(length: int, *, done: int = 0, ids: list[int] | None = None) -> Prefill:
    """`length` tokens are to be read, after `done` that were."""
    prompt = ids or [(7 * i) % 250 for i in range(done + length + 1)]
    return Prefill(Group((Sequence("llama", prompt, 4, Sampling()),)), [], done)


def picked(prefills: Ordered[Prefill], together: int = TOGETHER) -> list[int]:
    waiting = Prefills()
    for each in prefills:
        waiting.add(each)
    return [each.remaining for each in waiting.pick(CHUNK, together)]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([50, 52, 51], [50, 51, 52]),
        ([20, 80, 82], [20]),
        ([80, 101, 60], [60, 80]),
        ([90, 91, 92, 93], [90, 91, 92]),
        ([70, 400], [70]),
        ([400, 400], [400]),
        ([149, 149, 149], [149, 149]),
    ],
    ids=["alike", "unlike", "padding", "too-many", "one-long", "all-long", "half-as-many-again"],
)
async def test_short_prompts_of_about_one_length_are_picked_together(
    lengths: list[int], expected: list[int]
) -> None:
    assert picked([prefill(length) for length in lengths]) == expected


async def test_prompts_are_picked_alone_where_none_may_be_read_together() -> None:
    assert picked([prefill(50), prefill(50)], together=0) == [50]


async def test_prompts_are_picked_alone_when_what_was_read_of_them_is_unlike() -> None:
    assert picked([prefill(50), prefill(50, done=200)]) == [50]
    assert picked([prefill(50, done=190), prefill(50, done=200)]) == [50, 50]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind in ("llama", "sliding", "mamba", "llama4"):
        write_tiny_model(root / kind, kind)
    return root


def written(seed: int, length: int) -> list[int]:
    chance = random.Random(seed)  # noqa: S311 - prompts, not secrets.
    return [chance.randrange(256) for _ in range(length)]


async def test_what_is_read_together_is_what_would_be_read_alone(folder: Path) -> None:
    model: Any = utils.load_model(folder / "llama")[0]
    company, alone = list[Prefill](), list[Prefill]()
    for place, (done, length) in enumerate([(0, 40), (5, 31), (12, 36), (0, 38)]):
        ids = written(place, done + length + 1)
        for prefills in (company, alone):
            prefills.append(prefill(length, done=done, ids=ids))
            prefills[-1].cache = make_prompt_cache(model)
            if done:
                model(mx.array([ids[:done]]), cache=prefills[-1].cache)
    assert read(model, company, CHUNK, None) == []
    for one, other in zip(company, alone, strict=True):
        read(model, [other], CHUNK, None)
        assert one.remaining == other.remaining == 0
        for mine, theirs in zip(one.cache, other.cache, strict=True):
            assert mine.offset == theirs.offset == one.done
            for mine_read, their_read in zip(
                mine.keys_and_values(), theirs.keys_and_values(), strict=True
            ):
                # Numbers up to 33, and sums in another order: 3e-4 apart on some processors. What
                # is read wrongly is off by whole numbers.
                assert mx.allclose(mine_read, their_read, atol=1e-3)


async def tokens_of(backend: MLXBackend, asked: Sequence) -> list[int]:
    found = [await asked.next()]
    while found[-1].finish is None:
        found.append(await asked.next())
    backend._engine.release(asked, answered=True)
    return [sampled.token for sampled in found]


async def answers(backend: MLXBackend, model: str, prompts: list[list[int]]) -> list[list[int]]:
    """To all at once."""
    asked = [Sequence(model, ids, 6, Sampling()) for ids in prompts]
    for each in asked:
        backend._engine.submit(each)
    return await asyncio.gather(*(tokens_of(backend, each) for each in asked))


class Parties:
    """How many prompts were read in each pass."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        fine = scheduler.read

        def counted(model: Any, prefills: list[Prefill], *given: Any) -> list[Prefill]:
            self.sizes.append(len(prefills))
            return fine(model, prefills, *given)

        patch.setattr(scheduler, "read", counted)


@pytest.mark.parametrize(
    ("kind", "together"), [("llama", True), ("sliding", False), ("mamba", False), ("llama4", False)]
)
async def test_a_prompt_is_answered_in_company_as_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, together: bool
) -> None:
    """Some begin with what was read before; only keys and values of all tokens take padding."""
    parties = Parties(monkeypatch)
    backend = MLXBackend(config_for(folder))
    cold = MLXBackend(config_for(folder, prefix_cache_bytes=0))
    chance = random.Random(kind)  # noqa: S311
    head = written(99, 40)
    try:
        await backend.load(kind)
        await cold.load(kind)
        for burst in range(4):
            prompts = [written(burst * 8 + i, chance.randrange(1, 60)) for i in range(8)]
            prompts[2:5] = [head + ids for ids in prompts[2:5]]
            crowd = await answers(backend, kind, prompts)
            assert [(await answers(cold, kind, [ids]))[0] for ids in prompts] == crowd
            assert len(set(map(tuple, crowd))) > 4
        assert (max(parties.sizes) > 1) is together
    finally:
        await backend.aclose()
        await cold.aclose()


async def test_a_cancelled_prompt_leaves_its_company_alone(folder: Path) -> None:
    backend = MLXBackend(config_for(folder))
    try:
        await backend.load("llama")
        prompts = [written(i, 50) for i in range(4)]
        alone = [(await answers(backend, "llama", [ids]))[0] for ids in prompts[1:]]
        leaving = Sequence("llama", written(9, 50), 6, Sampling())
        backend._engine.submit(leaving)
        staying = asyncio.create_task(answers(backend, "llama", prompts[1:]))
        await leaving.admitted()
        backend._engine.release(leaving, answered=False)
        assert await staying == alone
        assert backend._engine.counters()["rows"] == 0
    finally:
        await backend.aclose()


@pytest.mark.parametrize(
    ("moment", "seconds", "expected"), [(10.0, 0.02, [2]), (0.01, 0.5, [1, 1])]
)
async def test_an_idle_engine_waits_a_moment_for_who_is_on_the_way(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: float,
    seconds: float,
    expected: list[int],
) -> None:
    monkeypatch.setattr(batching_window, "_MOMENT", moment)
    parties = Parties(monkeypatch)
    backend = MLXBackend(config_for(folder))
    try:
        await backend.load("llama")
        with backend._engine.arrivals.expect():
            first = asyncio.create_task(answers(backend, "llama", [written(1, 50)]))
            await asyncio.sleep(seconds)
            second = asyncio.create_task(answers(backend, "llama", [written(2, 50)]))
            await asyncio.sleep(0)
        await asyncio.gather(first, second)
        assert parties.sizes == expected
    finally:
        await backend.aclose()


@pytest.mark.parametrize(("decoding", "expected"), [(0, [2]), (2, [2]), (5, [1, 1])])
async def test_rows_that_go_on_wait_for_no_more_than_a_chunk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, decoding: int, expected: list[int]
) -> None:
    """Two rows pause for two newcomers of 80 tokens, five do not."""
    parties = Parties(monkeypatch)
    backend = MLXBackend(config_for(folder))
    try:
        await backend.load("llama")
        rows = [Sequence("llama", written(i, 20), 400, Sampling()) for i in range(decoding)]
        for each in rows:
            backend._engine.submit(each)
        for each in rows:
            await each.next()
        parties.sizes.clear()
        gate = threading.Event()
        backend._engine.run(gate.wait)
        coming = asyncio.create_task(answers(backend, "llama", [written(i, 80) for i in (8, 9)]))
        await asyncio.sleep(0.05)
        gate.set()
        await coming
        assert parties.sizes == expected
        for each in rows:
            backend._engine.release(each, answered=False)
    finally:
        await backend.aclose()


# The tiny llama: 2 layers x 2 heads x 8 numbers x 4 bytes, keys and values.
_TOKEN_BYTES = 2 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(("room", "expected"), [(62, 2), (61, 1)])
async def test_prompts_are_read_together_as_far_as_memory_was_set_aside(
    folder: Path, room: int, expected: int
) -> None:
    """8 tokens and 20 more, beside 23: a rectangle of 2 x (8 + 23)."""
    backend = MLXBackend(config_for(folder, kv_budget_bytes=room * _TOKEN_BYTES))
    try:
        await backend.load("llama")
        lane = backend._engine._lanes["llama"]
        for each in (prefill(20, done=8), prefill(23)):
            each.group.expected = 28
            lane._prefills.add(each)
        assert len(lane._party(TOGETHER)) == expected
    finally:
        await backend.aclose()
