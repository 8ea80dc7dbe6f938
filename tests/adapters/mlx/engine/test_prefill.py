"""Prompts read alone and in company, without an answer."""

import asyncio
import random
import threading
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Ordered
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import EngineClient, ForwardPasses, paused, rows
from fakes.tiny_model import KINDS, config_for, write_tiny_model
from mlx_lm import utils
from mlx_lm.models.cache import make_prompt_cache

from adapters.mlx.engine.admission import Group
from adapters.mlx.engine.batching_window import BatchingWindow
from adapters.mlx.engine.engine import Engine
from adapters.mlx.engine.prefill import Prefill, Prefills, read
from adapters.mlx.sequence import Sequence
from adapters.request import Sampling

pytestmark = pytest.mark.slow

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


@asynccontextmanager
async def opened(folder: Path, kind: str, **fields: Any) -> AsyncGenerator[EngineClient]:
    client = EngineClient(Engine(config_for(folder, **fields)))
    try:
        await client.load(folder / kind)
        yield client
    finally:
        await asyncio.to_thread(client.engine.close)


async def answers(
    client: EngineClient, model: str, prompts: list[list[int]], max_tokens: int = 6
) -> list[list[int]]:
    """Answer all prompts, which arrive together."""
    sequences = [Sequence(model, ids, max_tokens, Sampling()) for ids in prompts]
    async with paused(client.engine):
        client.submit(*sequences)
    return await asyncio.gather(*map(client.tokens, sequences))


@pytest.mark.parametrize(
    ("kind", "together"), [("llama", True), ("sliding", False), ("mamba", False), ("llama4", False)]
)
async def test_a_prompt_is_answered_in_company_as_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, together: bool
) -> None:
    """Some begin with what was read before; only keys and values of all tokens take padding."""
    chance = random.Random(kind)  # noqa: S311
    head = written(99, 40)
    most = 0
    async with (
        opened(folder, kind) as client,
        opened(folder, kind, prefix_cache_bytes=0) as cold,
    ):
        passes = ForwardPasses(monkeypatch, KINDS[kind][0].Model)
        for burst in range(4):
            prompts = [written(burst * 8 + i, chance.randrange(1, 60)) for i in range(8)]
            prompts[2:5] = [head + ids for ids in prompts[2:5]]
            passes.shapes.clear()
            crowd = await answers(client, kind, prompts)
            most = max([most, *(count for count, _ in passes.prompts)])
            assert [(await answers(cold, kind, [ids]))[0] for ids in prompts] == crowd
            assert len(set(map(tuple, crowd))) > 4
    assert (most > 1) is together


async def test_a_cancelled_prompt_leaves_its_company_alone(folder: Path) -> None:
    async with opened(folder, "llama") as client:
        prompts = [written(i, 50) for i in range(4)]
        alone = [(await answers(client, "llama", [ids]))[0] for ids in prompts[1:]]
        leaving = Sequence("llama", written(9, 50), 6, Sampling())
        staying = [Sequence("llama", ids, 6, Sampling()) for ids in prompts[1:]]
        async with paused(client.engine):
            client.submit(leaving, *staying)
        assert await client.next(leaving) is None
        client.release(leaving)
        assert await asyncio.gather(*map(client.tokens, staying)) == alone
        assert await rows(client.engine) == 0


def test_the_window_is_open_while_a_request_is_prepared() -> None:
    wake = threading.Condition()
    window, waited = BatchingWindow(wake, 30.0), threading.Event()

    def wait() -> None:
        with wake:
            window.wait()
        waited.set()

    first, second = window.expect(), window.expect()
    waiting = threading.Thread(target=wait)
    waiting.start()
    first.over()
    first.over()
    assert not waited.is_set()
    second.over()
    assert waited.wait(10)
    waiting.join(10)


def test_the_window_ends_by_itself() -> None:
    wake = threading.Condition()
    window = BatchingWindow(wake, 0.0)
    with window.expect(), wake:
        window.wait()


async def test_prompts_of_one_window_are_read_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = EngineClient(Engine(config_for(folder), window_seconds=30.0))
    try:
        await client.load(folder / "llama")
        passes = ForwardPasses(monkeypatch, KINDS["llama"][0].Model)
        first, second = [Sequence("llama", written(i, 50), 6, Sampling()) for i in (1, 2)]
        with client.engine.arrivals.expect():
            client.submit(first)
            # The engine is idle: it waits for the request that is being prepared.
            client.submit(second)
        await asyncio.gather(client.tokens(first), client.tokens(second))
        assert passes.prompts == [(2, 49)]
    finally:
        await asyncio.to_thread(client.engine.close)


@pytest.mark.parametrize(
    ("decoding", "expected"), [(0, [(2, 79)]), (2, [(2, 79)]), (5, [(1, 79), (1, 79)])]
)
async def test_rows_that_go_on_wait_for_no_more_than_a_chunk(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoding: int,
    expected: list[tuple[int, int]],
) -> None:
    """Two rows pause for two new prompts of 80 tokens, five do not."""
    async with opened(folder, "llama") as client:
        going_on = [Sequence("llama", written(i, 20), 490, Sampling()) for i in range(decoding)]
        client.submit(*going_on)
        for sequence in going_on:
            assert await client.next(sequence) is None
            await client.next(sequence)
        passes = ForwardPasses(monkeypatch, KINDS["llama"][0].Model)
        await answers(client, "llama", [written(i, 80) for i in (8, 9)])
        assert passes.prompts == expected
        for sequence in going_on:
            client.release(sequence)


# The tiny llama: 2 layers x 2 heads x 8 numbers x 4 bytes, keys and values.
_TOKEN_BYTES = 2 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(("room", "together"), [(62, True), (61, False)])
async def test_prompts_are_read_together_as_far_as_memory_is_reserved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, room: int, *, together: bool
) -> None:
    """8 cached tokens and 20 more, beside 23: a rectangle of 2 x (8 + 23)."""
    async with opened(folder, "llama", kv_budget_bytes=room * _TOKEN_BYTES) as client:
        head = written(5, 37)
        await answers(client, "llama", [head], max_tokens=1)
        passes = ForwardPasses(monkeypatch, KINDS["llama"][0].Model)
        await answers(client, "llama", [head[:8] + written(6, 21), written(7, 24)], max_tokens=1)
        assert passes.prompts == ([(2, 23)] if together else [(1, 20), (1, 23)])
