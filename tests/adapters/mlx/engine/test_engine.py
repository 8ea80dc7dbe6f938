"""The engine below the text: rows, turns, memory, faults."""

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import EngineClient, ForwardPasses, HeldPass, Shape, paused, rows
from fakes.tiny_model import KINDS as TINY_KINDS
from fakes.tiny_model import config_for, write_tiny_model
from fakes.waiting import until

from adapters import sink
from adapters.errors import (
    BackendBusyError,
    BackendError,
    GenerationError,
    InsufficientMemoryError,
    InvalidRequestError,
)
from adapters.events import Event, Finished, Started, TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.sequence import Sequence
from adapters.request import GenerationRequest, Sampling, TokenIds

KINDS = ("llama", "llama4", "mamba")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write_tiny_model(root / kind, kind)
    return root


@asynccontextmanager
async def opened(
    folder: Path, *, clock: Callable[[], float] = time.monotonic, **fields: Any
) -> AsyncGenerator[tuple[MLXBackend, Engine]]:
    config = config_for(folder, **fields)
    engine = Engine(config, clock=clock)
    async with aclosing(MLXBackend(config, engine=engine)) as backend:
        yield backend, engine


@pytest.fixture
async def client(folder: Path, engine: Engine) -> AsyncGenerator[EngineClient]:
    """An engine on its own, with every model loaded."""
    client = EngineClient(engine)
    for kind in KINDS:
        await client.load(folder / kind)
    yield client
    await asyncio.to_thread(engine.close)


def passes_of(patch: pytest.MonkeyPatch, kind: str = "llama") -> ForwardPasses:
    return ForwardPasses(patch, TINY_KINDS[kind][0].Model)


def prompt(*, length: int = 12, start: int = 1) -> list[int]:
    return [(start + 7 * i) % 250 for i in range(length)]


def sequence(model: str = "llama", **fields: Any) -> Sequence:
    defaults = {"prompt": prompt(), "max_tokens": 20, "sampling": Sampling()}
    return Sequence(model, **{**defaults, **fields})


def request(model: str = "llama", **fields: Any) -> GenerationRequest:
    ids = TokenIds(tuple(prompt()))
    return GenerationRequest(model=model, prompt=ids, **{"max_tokens": 12, **fields})


async def answer(backend: MLXBackend, of: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, of)]


def text_of(events: list[Event], choice: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta) and e.choice == choice)


class Poison:
    """Fails at the call of that number, in one of the ways there are."""

    def __init__(self, call: int, way: str) -> None:
        self.error: BackendError | None = None
        self._call, self._way, self._calls = call, way, 0

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        self._calls += 1
        if self._calls < self._call:
            return logits
        if self._way == "raises":
            raise ValueError("poison")
        if self._way == "says":
            self.error = InvalidRequestError("no way on")
            return logits
        return logits[:, :3]


class Only:
    """Bans every token but one, and remembers what it was shown."""

    def __init__(self, token: int) -> None:
        self.error: BackendError | None = None
        self.token = token
        self.shown: list[list[int]] = []

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        listed: Any = tokens.tolist()
        self.shown.append(listed)
        return mx.where(mx.arange(logits.shape[-1]) == self.token, logits, -mx.inf)


@pytest.mark.parametrize("call", [1, 4])
@pytest.mark.parametrize(
    ("way", "expected"),
    [("raises", GenerationError), ("says", InvalidRequestError), ("shrinks", GenerationError)],
)
@pytest.mark.slow
async def test_a_poisoned_row_ends_alone_when_its_processor_fails(
    client: EngineClient, call: int, way: str, expected: type[BackendError]
) -> None:
    prompts = [prompt(length=size, start=size) for size in (5, 40, 12)]
    clean = [await client.answer(sequence(prompt=ids)) for ids in prompts]
    poisoned = sequence(prompt=prompt(length=20), processors=(Poison(call, way),))
    first, second, failed, third = await client.answer(
        sequence(prompt=prompts[0]),
        sequence(prompt=prompts[1]),
        poisoned,
        sequence(prompt=prompts[2]),
    )
    assert [[first], [second], [third]] == clean
    assert type(failed) is expected
    assert await client.answer(sequence(prompt=prompts[0])) == clean[0]
    assert await rows(client.engine) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_processor_sees_prompt_and_answer_once_per_token(
    client: EngineClient, kind: str
) -> None:
    only = Only(65)
    [found] = await client.answer(sequence(kind, max_tokens=4, processors=(only,)))
    assert found == [65] * 4
    assert only.shown[:3] == [prompt(), [*prompt(), 65], [*prompt(), 65, 65]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_each_choice_has_the_text_of_its_own_seed(backend: MLXBackend, kind: str) -> None:
    sampling = Sampling(temperature=3.0, seed=5)
    events = await answer(backend, request(kind, n=3, sampling=sampling))
    assert [type(event) for event in events].count(Started) == 1
    finished = [event for event in events if isinstance(event, Finished)]
    assert sorted(event.choice for event in finished) == [0, 1, 2]
    assert isinstance(events[-1], Finished)
    single = [
        text_of(
            await answer(
                backend, request(kind, sampling=Sampling(temperature=3.0, seed=5 + choice))
            )
        )
        for choice in range(3)
    ]
    assert [text_of(events, choice) for choice in range(3)] == single
    assert len(set(single)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "llama4"])
async def test_more_choices_than_rows_share_one_reading_of_the_prompt(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(folder, max_concurrent=3) as (backend, _):
        await backend.load(kind)
        passes = passes_of(monkeypatch, kind)
        events = await answer(backend, request(kind, n=7))
        assert passes.prompts == [(1, len(prompt()) - 1)]
        assert len({text_of(events, choice) for choice in range(7)}) == 1
        assert sum(isinstance(event, Finished) for event in events) == 7


@pytest.mark.slow
async def test_a_stop_string_frees_the_row_of_its_choice_only(
    backend: MLXBackend, engine: Engine
) -> None:
    sampling = Sampling(temperature=1.0, seed=5)
    asked = request(n=2, max_tokens=60, sampling=sampling)
    full = await answer(backend, asked)
    word = text_of(full, 0)[2:5]
    assert word not in text_of(full, 1)
    events = await answer(backend, request(n=2, max_tokens=60, sampling=sampling, stop=(word,)))
    assert text_of(events, 1) == text_of(full, 1)
    reasons = {e.choice: e.stop_sequence for e in events if isinstance(e, Finished)}
    assert reasons == {0: word, 1: None}
    assert await rows(engine) == 0


async def test_closing_frees_all_choices(backend: MLXBackend, engine: Engine) -> None:
    stream = sink.events(backend, request(n=12, max_tokens=400))
    await anext(stream)
    await anext(stream)
    async with paused(engine):
        await stream.aclose()
    assert await rows(engine) == 0
    counters = (await backend.health()).counters
    assert (counters["active"], counters["finished"] + counters["cancelled"]) == (0, 12)
    assert counters["cancelled"] > 0


@pytest.mark.slow
async def test_logprobs_are_the_models_own_whatever_the_row_is_drawn_with(
    client: EngineClient, folder: Path
) -> None:
    bent = Sampling(temperature=2.0, seed=1, logit_bias={65: 3.0}, frequency_penalty=1.0)
    sequences = [
        sequence(sampling=bent, top_logprobs=3),
        sequence(prompt=prompt(length=30)),
        sequence(prompt=prompt(length=9), top_logprobs=0, max_tokens=5),
    ]
    client.submit(*sequences)
    reported, silent, alone = await asyncio.gather(*map(client.sampled, sequences))
    assert all(s.logprob is None and s.top == () for s in silent)
    assert all(s.logprob is not None and s.top == () for s in alone)
    model = (await client.load(folder / "llama")).model
    ids = [*prompt(), *(s.token for s in reported)]
    for place, found in enumerate(reported):
        before = ids[: len(prompt()) + place]
        expected = await asyncio.wrap_future(
            client.engine.run(partial(logprobs_after, model, before))
        )
        assert found.logprob == pytest.approx(expected[found.token], abs=1e-3)
        best = sorted(expected, reverse=True)[:3]
        assert [value for _, value in found.top] == pytest.approx(best, abs=1e-3)
        assert [expected[token] for token, _ in found.top] == pytest.approx(best, abs=1e-3)


def logprobs_after(model: Any, ids: list[int]) -> list[float]:
    logits = model(mx.array([ids]))[0, -1]
    found: Any = (logits - mx.logsumexp(logits)).tolist()
    return found


@pytest.mark.slow
async def test_clients_take_turns_when_they_wait(folder: Path) -> None:
    async with opened(folder, max_concurrent=1) as (_, engine):
        client, order = EngineClient(engine), list[str]()
        await client.load(folder / "llama")

        async def follow(each: Sequence) -> None:
            assert await client.next(each) is None
            order.append(each.client)
            await client.tokens(each)

        sequences = [sequence(client=name) for name in ["greedy"] * 4 + ["modest"] * 2]
        async with paused(engine):
            client.submit(*sequences)
        await asyncio.gather(*map(follow, sequences))
        assert order == ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]


@pytest.mark.slow
async def test_a_short_newcomer_overtakes_a_long_prompt(folder: Path) -> None:
    async with opened(folder, prefill_chunk=8) as (_, engine):
        client, ended = EngineClient(engine), list[str]()
        await client.load(folder / "llama")
        long, short = sequence(prompt=prompt(length=400), max_tokens=1), sequence(max_tokens=1)

        async def note(name: str, each: Sequence) -> None:
            await client.tokens(each)
            ended.append(name)

        client.submit(long, short)
        await asyncio.gather(note("long", long), note("short", short))
        assert ended == ["short", "long"]


# The tiny llama: 2 layers x 2 heads x 8 numbers x 4 bytes, keys and values.
_TOKEN_BYTES = 2 * 2 * 2 * 8 * 4


@pytest.mark.slow
async def test_a_request_that_never_fits_is_refused_with_the_numbers(folder: Path) -> None:
    async with opened(folder, kv_budget_bytes=100 * _TOKEN_BYTES) as (backend, _):
        with pytest.raises(InsufficientMemoryError, match=rf"{212 * _TOKEN_BYTES} bytes.*25600"):
            await answer(backend, request(max_tokens=200))
        assert text_of(await answer(backend, request(max_tokens=80)))


@pytest.mark.slow
async def test_rows_wait_for_memory_when_the_rectangle_would_be_too_big(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(folder, kv_budget_bytes=300 * _TOKEN_BYTES) as (_, engine):
        client = EngineClient(engine)
        await client.load(folder / "llama")
        passes = passes_of(monkeypatch)
        # 12 + 108 tokens: two of them fit into 300, three do not.
        results = await client.answer(*[sequence(max_tokens=108) for _ in range(3)])
        assert [len(result) for result in results] == [108] * 3
        assert max(count for count, tokens in passes.shapes if tokens == 1) == 2


async def test_a_request_that_waits_too_long_is_refused_before_it_started(folder: Path) -> None:
    now = 0.0
    async with opened(folder, max_concurrent=1, max_wait=5, clock=lambda: now) as (_, engine):
        client = EngineClient(engine)
        await client.load(folder / "llama")
        first, second = sequence(max_tokens=490), sequence(max_tokens=490)
        async with paused(engine):
            client.submit(first, second)
        # Both are in line when the next command runs.
        async with paused(engine):
            now = 6.0
        with pytest.raises(BackendBusyError, match=r"for 5 s;"):
            await client.next(second)
        client.release(second)
        client.release(first)
        assert await rows(engine) == 0


async def test_a_request_with_patience_waits_no_longer(folder: Path) -> None:
    async with opened(folder, max_concurrent=1) as (backend, engine):
        await backend.load("llama")
        async with paused(engine):
            with pytest.raises(BackendBusyError, match=r"0\.05 s;"):
                await answer(backend, request(max_tokens=490, patience=0.05))
        assert await rows(engine) == 0
        assert (await backend.health()).counters["cancelled"] == 1


async def test_a_cancelled_waiter_leaves_at_once(folder: Path) -> None:
    async with opened(folder, max_concurrent=1) as (backend, engine):
        first = sink.events(backend, request(max_tokens=480))
        await anext(first)
        async with paused(engine):
            waiting = asyncio.create_task(answer(backend, request()))
            await until(lambda: engine.counters()["active"] == 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert engine.counters()["active"] == 1
        assert await rows(engine) == 1
        await first.aclose()


@pytest.mark.slow
async def test_three_failures_mark_the_model_until_it_is_loaded_anew(
    backend: MLXBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = text_of(await answer(backend, request()))
    passes = passes_of(monkeypatch)
    passes.before = break_down
    for _ in range(3):
        with pytest.raises(GenerationError, match="engine failed"):
            await answer(backend, request())
    passes.before = lambda _shape: None
    health = await backend.health()
    assert (health.ok, health.counters["failed_models"]) == (False, 1)
    assert health.detail == "Failed, to be unloaded and loaded anew: llama."
    assert health.breaker == "open"
    assert (backend.is_well("llama"), backend.is_well("llama4")) == (False, True)
    with pytest.raises(GenerationError, match="unload it") as caught:
        await answer(backend, request())
    assert caught.value.lasting
    await backend.unload("llama")
    assert text_of(await answer(backend, request())) == expected
    assert (await backend.health()).ok
    assert backend.is_well("llama")


def break_down(_shape: Shape) -> None:
    raise RuntimeError("[metal] out of resources")


async def test_a_step_that_hangs_is_reported_as_a_stall(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    async with opened(folder, stall_seconds=5, clock=lambda: now) as (backend, _):
        await backend.load("llama")
        passes_of(monkeypatch).before = hanging = HeldPass(lambda _shape: True)
        answering = asyncio.create_task(answer(backend, request(max_tokens=1)))
        await hanging.reached()
        assert (await backend.health()).ok
        now = 6.0
        health = await backend.health()
        assert not health.ok
        assert str(health.detail).startswith("Stalled")
        assert not backend.is_well("llama")
        hanging.go_on()
        await answering
        assert (await backend.health()).ok


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
async def test_quantised_caches_answer_one_at_a_time(tmp_path: Path, bits: int) -> None:
    # mlx quantises groups of 64 numbers, so that the heads have to be that wide.
    shape: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    write_tiny_model(tmp_path / "wide", "llama", **shape)
    async with opened(tmp_path, kv_bits=bits) as (backend, engine):
        both = await asyncio.gather(*(answer(backend, request("wide")) for _ in range(2)))
        assert text_of(both[0]) == text_of(both[1]) != ""
        status = engine.status("wide")
        assert status is not None
        assert status.max_rows == 1


@pytest.mark.slow
@pytest.mark.parametrize("length", [12, 400])
async def test_a_cancelled_row_takes_part_in_no_step_after_the_one_that_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """400 tokens: it is cancelled while its prompt is read, in chunks of 8."""
    async with opened(folder, prefill_chunk=8) as (backend, engine):
        await backend.load("llama")
        staying = sink.events(backend, request(max_tokens=490))
        await anext(staying)
        await anext(staying)
        passes = passes_of(monkeypatch)
        holding = HeldPass(lambda shape: shape[1 if length > 12 else 0] > 1)
        ids = TokenIds(tuple(prompt(length=length, start=3)))
        leaving = GenerationRequest(model="llama", prompt=ids, max_tokens=90)
        stream = sink.events(backend, leaving)
        await anext(stream)
        passes.before = holding
        await holding.reached()
        await stream.aclose()
        passes.shapes.clear()
        counted = engine.run(lambda: (engine.counters()["rows"], len(passes.shapes)))
        holding.go_on()
        count, steps = await asyncio.wrap_future(counted)
        # The step that ran: its decoding, and at most the chunk of a prompt.
        assert (count, steps <= 2) == (1, True)
        passes.shapes.clear()
        assert isinstance([event async for event in staying][-1], Finished)
        assert set(passes.shapes) == {(1, 1)}


async def _cancel_many(backend: MLXBackend, engine: Engine, times: int) -> None:
    for i in range(times):
        stream = sink.events(backend, request(n=1 + i % 3, max_tokens=400))
        for _ in range(i % 4):
            await anext(stream)
        await stream.aclose()
    assert await rows(engine) == 0


@pytest.mark.slow
@pytest.mark.parametrize("times", [40, pytest.param(1000, marks=pytest.mark.long)])
async def test_cancelled_answers_leave_nothing_behind(folder: Path, times: int) -> None:
    # Without prefixes: a slow event loop lets a row grow to a block, which is kept, as it should.
    async with opened(folder, prefix_cache_bytes=0) as (backend, engine):
        expected = text_of(await answer(backend, request()))
        await _cancel_many(backend, engine, 4)
        tasks, memory = len(asyncio.all_tasks()), await settled_memory(backend, engine)
        await _cancel_many(backend, engine, times)
        assert await settled_memory(backend, engine) <= memory
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert engine.counters()["active"] == 0
        assert text_of(await answer(backend, request())) == expected


async def settled_memory(backend: MLXBackend, engine: Engine) -> int:
    """Bytes of arrays after a whole answer: the batch keeps what its last rows needed."""
    await answer(backend, request())
    gc.collect()
    return await active_memory(engine)


async def active_memory(engine: Engine) -> int:
    return await asyncio.wrap_future(engine.run(mx.get_active_memory))
