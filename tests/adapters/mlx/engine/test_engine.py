"""The engine below the text: rows, turns, memory, faults."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_model import write_tiny_model
from waiting import until

from adapters.config import MLXConfig
from adapters.errors import (
    BackendBusyError,
    BackendError,
    GenerationError,
    InsufficientMemoryError,
    InvalidRequestError,
)
from adapters.events import Event, Finished, Started, TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine import scheduler
from adapters.mlx.engine.decode import DecodeBatch
from adapters.mlx.engine.prefill import Prefill
from adapters.mlx.engine.scheduler import Scheduler
from adapters.mlx.sequence import Sampled, Sequence
from adapters.request import GenerationRequest, Sampling, TokenIds

KINDS = ("llama", "llama4", "mamba")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write_tiny_model(root / kind, kind)
    return root


def open_backend(folder: Path, **fields: Any) -> MLXBackend:
    return MLXBackend(
        MLXConfig(folders=(str(folder),), huggingface_cache=False, embedded="never", **fields)
    )


@pytest.fixture
async def backend(folder: Path) -> AsyncGenerator[MLXBackend]:
    backend = open_backend(folder)
    yield backend
    await backend.aclose()


def prompt(*, length: int = 12, start: int = 1) -> list[int]:
    return [(start + 7 * i) % 250 for i in range(length)]


def sequence(model: str = "llama", **fields: Any) -> Sequence:
    given: dict[str, Any] = {"prompt": prompt(), "max_tokens": 20, "sampling": Sampling(), **fields}
    return Sequence(model, **given)


async def tokens_of(each: Sequence) -> list[int]:
    return [sampled.token for sampled in await sampled_of(each)]


async def sampled_of(each: Sequence) -> list[Sampled]:
    found = [await each.next()]
    while found[-1].finish is None:
        found.append(await each.next())
    return found


async def run(backend: MLXBackend, *sequences: Sequence) -> list[Any]:
    """All at once, as requests of their own."""
    for each in sequences:
        backend._engine.submit(each)
    try:
        return await asyncio.gather(*map(tokens_of, sequences), return_exceptions=True)
    finally:
        for each in sequences:
            backend._engine.release(each, answered=False)


def rows(backend: MLXBackend) -> int:
    return backend._engine.counters()["rows"]


def request(model: str = "llama", **fields: Any) -> GenerationRequest:
    ids = TokenIds(tuple(prompt()))
    return GenerationRequest(model=model, prompt=ids, **{"max_tokens": 12, **fields})


async def answer(backend: MLXBackend, asked: GenerationRequest) -> list[Event]:
    return [event async for event in backend.generate(asked)]


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
async def test_a_poisoned_row_ends_alone_when_its_processor_fails(
    backend: MLXBackend, call: int, way: str, expected: type[BackendError]
) -> None:
    await backend.load("llama")
    prompts = [prompt(length=size, start=size) for size in (5, 40, 12)]
    clean = [await run(backend, sequence(prompt=each)) for each in prompts]
    poisoned = sequence(prompt=prompt(length=20), processors=(Poison(call, way),))
    first, second, failed, third = await run(
        backend,
        sequence(prompt=prompts[0]),
        sequence(prompt=prompts[1]),
        poisoned,
        sequence(prompt=prompts[2]),
    )
    assert [[first], [second], [third]] == clean
    assert type(failed) is expected
    assert await run(backend, sequence(prompt=prompts[0])) == clean[0]
    assert rows(backend) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_processor_sees_prompt_and_answer_once_per_token(
    backend: MLXBackend, kind: str
) -> None:
    await backend.load(kind)
    only = Only(65)
    [found] = await run(backend, sequence(kind, max_tokens=4, processors=(only,)))
    assert found == [65] * 4
    assert only.shown[:3] == [prompt(), [*prompt(), 65], [*prompt(), 65, 65]]


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


@pytest.mark.parametrize("kind", ["llama", "llama4"])
async def test_more_choices_than_rows_share_one_reading_of_the_prompt(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_backend(folder, max_concurrent=3)
    read: list[int] = []
    fine = scheduler.read

    def noted(model: Any, prefills: list[Prefill], *given: Any) -> list[Prefill]:
        read.extend(prefill.remaining for prefill in prefills)
        return fine(model, prefills, *given)

    monkeypatch.setattr(scheduler, "read", noted)
    try:
        events = await answer(backend, request(kind, n=7))
        assert read == [len(prompt()) - 1]
        assert len({text_of(events, choice) for choice in range(7)}) == 1
        assert sum(isinstance(event, Finished) for event in events) == 7
    finally:
        await backend.aclose()


async def test_a_stop_string_frees_the_row_of_its_choice_only(backend: MLXBackend) -> None:
    sampling = Sampling(temperature=1.0, seed=5)
    asked = request(n=2, max_tokens=60, sampling=sampling)
    whole = await answer(backend, asked)
    word = text_of(whole, 0)[2:5]
    assert word not in text_of(whole, 1)
    events = await answer(backend, request(n=2, max_tokens=60, sampling=sampling, stop=(word,)))
    assert text_of(events, 1) == text_of(whole, 1)
    reasons = {e.choice: e.stop_sequence for e in events if isinstance(e, Finished)}
    assert reasons == {0: word, 1: None}
    await until(lambda: rows(backend) == 0)


async def test_closing_frees_all_choices(backend: MLXBackend) -> None:
    stream = backend.generate(request(n=12, max_tokens=400))
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    await until(lambda: rows(backend) == 0)
    counters = (await backend.health()).counters
    assert (counters["active"], counters["cancelled"]) == (0, 12)


async def test_logprobs_are_the_models_own_whatever_the_row_is_drawn_with(
    backend: MLXBackend,
) -> None:
    await backend.load("llama")
    bent = Sampling(temperature=2.0, seed=1, logit_bias={65: 3.0}, frequency_penalty=1.0)
    asked = [
        sequence(sampling=bent, top_logprobs=3),
        sequence(prompt=prompt(length=30)),
        sequence(prompt=prompt(length=9), top_logprobs=0, max_tokens=5),
    ]
    for each in asked:
        backend._engine.submit(each)
    reported, silent, alone = await asyncio.gather(*map(sampled_of, asked))
    for each in asked:
        backend._engine.release(each, answered=False)
    assert all(s.logprob is None and s.top == () for s in silent)
    assert all(s.logprob is not None and s.top == () for s in alone)
    model = backend._engine._lanes["llama"].loaded.model
    ids = [*prompt(), *(s.token for s in reported)]
    for place, found in enumerate(reported):
        before = ids[: len(prompt()) + place]
        expected = await asyncio.wrap_future(
            backend._engine.run(partial(logprobs_after, model, before))
        )
        assert found.logprob == pytest.approx(expected[found.token], abs=1e-3)
        best = sorted(expected, reverse=True)[:3]
        assert [value for _, value in found.top] == pytest.approx(best, abs=1e-3)
        assert [expected[token] for token, _ in found.top] == pytest.approx(best, abs=1e-3)


def logprobs_after(model: Any, ids: list[int]) -> list[float]:
    logits = model(mx.array([ids]))[0, -1]
    found: Any = (logits - mx.logsumexp(logits)).tolist()
    return found


async def test_clients_take_turns_when_they_wait(folder: Path) -> None:
    backend = open_backend(folder, max_concurrent=1)
    try:
        await backend.load("llama")
        order: list[str] = []

        async def ask(client: str) -> None:
            each = sequence(client=client)
            backend._engine.submit(each)
            await each.admitted()
            order.append(client)
            await tokens_of(each)
            backend._engine.release(each, answered=True)

        # All of them are there before the first is admitted.
        gate = threading.Event()
        backend._engine.run(gate.wait)
        asking = [asyncio.create_task(ask(each)) for each in ["greedy"] * 4 + ["modest"] * 2]
        await until(lambda: backend._engine.counters()["active"] == 6)
        gate.set()
        await asyncio.gather(*asking)
        assert order == ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]
    finally:
        await backend.aclose()


async def test_a_short_newcomer_overtakes_a_long_prompt(folder: Path) -> None:
    backend = open_backend(folder, prefill_chunk=8)
    try:
        await backend.load("llama")
        long, short = sequence(prompt=prompt(length=400), max_tokens=1), sequence(max_tokens=1)
        ended: list[str] = []

        async def note(name: str, each: Sequence) -> None:
            await tokens_of(each)
            ended.append(name)
            backend._engine.release(each, answered=True)

        backend._engine.submit(long)
        backend._engine.submit(short)
        await asyncio.gather(note("long", long), note("short", short))
        assert ended == ["short", "long"]
    finally:
        await backend.aclose()


# The tiny llama: 2 layers x 2 heads x 8 numbers x 4 bytes, keys and values.
_TOKEN_BYTES = 2 * 2 * 2 * 8 * 4


async def test_a_request_that_never_fits_is_refused_with_the_numbers(folder: Path) -> None:
    backend = open_backend(folder, kv_budget_bytes=100 * _TOKEN_BYTES)
    try:
        stream = backend.generate(request(max_tokens=200))
        with pytest.raises(InsufficientMemoryError, match=rf"{212 * _TOKEN_BYTES} bytes.*25600"):
            await anext(stream)
        assert text_of(await answer(backend, request(max_tokens=80)))
    finally:
        await backend.aclose()


async def test_rows_wait_for_memory_when_the_rectangle_would_be_too_big(folder: Path) -> None:
    backend = open_backend(folder, kv_budget_bytes=300 * _TOKEN_BYTES)
    try:
        await backend.load("llama")
        # 12 + 108 tokens: two of them fit into 300, three do not.
        asked = [sequence(max_tokens=108) for _ in range(3)]
        most = 0
        lane = backend._engine._lanes["llama"]
        fine = lane._decoding.step

        def counting() -> Any:
            nonlocal most
            most = max(most, len(lane._decoding.rows))
            return fine()

        lane._decoding.step = counting  # pyright: ignore[reportAttributeAccessIssue]
        results = await run(backend, *asked)
        assert [len(result) for result in results] == [108] * 3
        assert most == 2
    finally:
        await backend.aclose()


async def test_who_waits_too_long_is_sent_away_before_it_started(folder: Path) -> None:
    backend = open_backend(folder, max_concurrent=1, max_wait=0.05)
    try:
        first = backend.generate(request(max_tokens=490))
        await anext(first)
        with pytest.raises(BackendBusyError, match=r"0\.05 seconds"):
            await anext(backend.generate(request(max_tokens=490)))
        await first.aclose()
        await until(lambda: backend._engine.counters()["active"] == 0)
    finally:
        await backend.aclose()


async def test_who_could_be_answered_elsewhere_waits_no_longer_than_its_patience(
    folder: Path,
) -> None:
    backend = open_backend(folder, max_concurrent=1)
    try:
        first = backend.generate(request(max_tokens=490))
        await anext(first)
        with pytest.raises(BackendBusyError, match=r"0\.05 seconds"):
            await anext(backend.generate(request(max_tokens=490, patience=0.05)))
        await until(lambda: rows(backend) == 1)
        await first.aclose()
    finally:
        await backend.aclose()


async def test_a_cancelled_waiter_leaves_at_once(folder: Path) -> None:
    backend = open_backend(folder, max_concurrent=1)
    try:
        first = backend.generate(request(max_tokens=480))
        await anext(first)
        waiting = asyncio.create_task(anext(backend.generate(request())))
        await until(lambda: rows(backend) == 2)
        waiting.cancel()
        await until(lambda: rows(backend) < 2)
        await first.aclose()
    finally:
        await backend.aclose()


async def test_three_failures_mark_the_model_until_it_is_loaded_anew(
    backend: MLXBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = text_of(await answer(backend, request()))

    def breaks(_batch: DecodeBatch) -> Any:
        raise RuntimeError("[metal] out of resources")

    with monkeypatch.context() as patch:
        patch.setattr(DecodeBatch, "step", breaks)
        for _ in range(3):
            with pytest.raises(GenerationError, match="engine failed"):
                await answer(backend, request())
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


async def test_a_step_that_hangs_is_called_a_stall(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_backend(folder, stall_seconds=0.05)
    fine = Scheduler.step

    def slow(lane: Scheduler) -> Any:
        time.sleep(0.5)
        return fine(lane)

    try:
        await backend.load("llama")
        monkeypatch.setattr(Scheduler, "step", slow)
        asking = asyncio.create_task(answer(backend, request(max_tokens=1)))
        await asyncio.sleep(0.3)
        health = await backend.health()
        assert not health.ok
        assert str(health.detail).startswith("Stalled")
        assert not backend.is_well("llama")
        await asking
        assert (await backend.health()).ok
    finally:
        await backend.aclose()


@pytest.mark.parametrize("bits", [4, 8])
async def test_quantised_caches_answer_one_at_a_time(tmp_path: Path, bits: int) -> None:
    # mlx quantises groups of 64 numbers, so that the heads have to be that wide.
    shape: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    write_tiny_model(tmp_path / "wide", "llama", **shape)
    backend = open_backend(tmp_path, kv_bits=bits)
    try:
        both = await asyncio.gather(*(answer(backend, request("wide")) for _ in range(2)))
        assert text_of(both[0]) == text_of(both[1]) != ""
        assert backend._engine._lanes["wide"].max_rows == 1
    finally:
        await backend.aclose()


@pytest.mark.parametrize("length", [12, 400])
async def test_a_cancelled_row_takes_part_in_no_step_after_the_one_that_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """400 tokens: it is cancelled while its prompt is read, in chunks of 8."""
    backend = open_backend(folder, prefill_chunk=8)
    fine, late = Scheduler.step, 0

    def counting(lane: Scheduler) -> Any:
        nonlocal late
        alive = [row.sequence for row in lane._decoding.rows]
        alive += [each for prefill in lane._prefills for each in prefill.group.waiting]
        late += any(each.cancelled for each in alive)
        return fine(lane)

    monkeypatch.setattr(Scheduler, "step", counting)
    try:
        ids = TokenIds(tuple(prompt(length=length)))
        staying = asyncio.create_task(answer(backend, request(max_tokens=400)))
        for _ in range(5):
            late = 0
            stream = backend.generate(GenerationRequest(model="llama", prompt=ids, max_tokens=90))
            await anext(stream)
            await stream.aclose()
            await until(lambda: rows(backend) <= 1)
            assert late <= 1
        assert isinstance((await staying)[-1], Finished)
    finally:
        await backend.aclose()


async def _cancel_many(backend: MLXBackend, times: int) -> None:
    for i in range(times):
        stream = backend.generate(request(n=1 + i % 3, max_tokens=400))
        for _ in range(i % 4):
            await anext(stream)
        await stream.aclose()
    await until(lambda: rows(backend) == 0)


@pytest.mark.parametrize("times", [40, pytest.param(1000, marks=pytest.mark.long)])
async def test_cancelled_answers_leave_nothing_behind(backend: MLXBackend, times: int) -> None:
    expected = text_of(await answer(backend, request()))
    await _cancel_many(backend, 4)
    tasks, memory = len(asyncio.all_tasks()), await active_memory(backend)
    await _cancel_many(backend, times)
    assert await active_memory(backend) <= memory
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert backend._engine.counters()["active"] == 0
    assert text_of(await answer(backend, request())) == expected


async def active_memory(backend: MLXBackend) -> int:
    return await asyncio.wrap_future(backend._engine.run(mx.get_active_memory))
