"""The prefix cache: cached prompts are not read again, and change no answer."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_model import config_for, write_tiny_model

from adapters import sink
from adapters.backend import Backend
from adapters.events import Event, Finished, TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.engine.prefix_cache import BlockStore, choose_block, create_prefix_cache
from adapters.mlx.engine.proof import proven
from adapters.mlx.jobs import finish
from adapters.mlx.models.load import LoadedModel, load_folder
from adapters.mlx.models.load_progress import Loading
from adapters.request import GenerationRequest, Message, TextPart

KINDS = ("llama", "sliding", "mamba", "llama4")
BLOCK = 32
LONG = "The quick brown fox jumps over the lazy dog. " * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write_tiny_model(root / kind, kind, context=2048)
    return root


@pytest.fixture
async def plain(folder: Path) -> AsyncGenerator[MLXBackend]:
    async with aclosing(MLXBackend(config_for(folder, prefix_cache_bytes=0))) as backend:
        yield backend


def message(role: Any, text: str) -> Message:
    return Message(role=role, content=(TextPart(text),))


def chat(model: str, *texts: str, **fields: Any) -> GenerationRequest:
    """A user's words, the answer to them, the user's next words, …"""
    roles = ("user", "assistant")
    prompt = tuple(message(roles[i % 2], text) for i, text in enumerate(texts))
    return GenerationRequest(model=model, prompt=prompt, **{"max_tokens": 24, **fields})


async def answer(backend: Backend, request: GenerationRequest) -> tuple[str, int]:
    """The text, and how many tokens of the prompt came from the cache."""
    events: list[Event] = [event async for event in sink.events(backend, request)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    cached = finished.usage.cached_tokens
    assert cached is not None
    return "".join(event.text for event in events if isinstance(event, TextDelta)), cached


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_text_is_the_same_when_the_prompt_is_cached(
    backend: MLXBackend, plain: MLXBackend, kind: str
) -> None:
    first, cached = await answer(backend, chat(kind, LONG))
    assert (first, cached) == ((await answer(plain, chat(kind, LONG)))[0], 0)
    again, cached = await answer(backend, chat(kind, LONG))
    assert again == first
    assert cached > 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_text_is_the_same_when_the_history_is_cached(
    backend: MLXBackend, plain: MLXBackend, kind: str
) -> None:
    await answer(backend, chat(kind, LONG))
    second = chat(kind, LONG, "It does.", "Does it jump high?")
    text, cached = await answer(backend, second)
    assert cached > 100
    assert (text, 0) == await answer(plain, second)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_system_message_is_read_once_for_all_conversations(
    backend: MLXBackend, plain: MLXBackend, kind: str
) -> None:
    first, second = [
        GenerationRequest(
            model=kind, prompt=(message("system", LONG), message("user", text)), max_tokens=8
        )
        for text in ("Hi", "Another question")
    ]
    await answer(backend, first)
    text, cached = await answer(backend, second)
    assert cached > len(LONG)
    assert (text, 0) == await answer(plain, second)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_turn_that_is_said_otherwise_reads_only_itself(
    backend: MLXBackend, plain: MLXBackend, kind: str
) -> None:
    """An app lets its user change the last message, or asks again with the end of a history."""
    await answer(backend, chat(kind, LONG, "It does.", "How high?", max_tokens=8))
    changed = chat(kind, LONG, "It does.", "Why, and for how long?", max_tokens=8)
    text, cached = await answer(backend, changed)
    assert cached > len(LONG)
    assert (text, 0) == await answer(plain, changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_text_is_the_same_when_cached_and_new_prompts_share_a_batch(
    backend: MLXBackend, plain: MLXBackend, kind: str
) -> None:
    requests = [chat(kind, LONG * n, "yes", "x" * n) for n in (1, 2, 3)]
    requests.append(chat(kind, "something else"))
    expected = [(await answer(plain, request))[0] for request in requests]
    await answer(backend, chat(kind, LONG))
    await answer(backend, requests[1])
    together = await asyncio.gather(*(answer(backend, request) for request in requests))
    assert [text for text, _ in together] == expected
    assert together[1][1] > 300
    assert together[3][1] == 0


async def test_an_answer_is_cached_as_part_of_the_next_prompt(backend: MLXBackend) -> None:
    raw = GenerationRequest(model="llama", prompt="a" * 40, max_tokens=60)
    text, _ = await answer(backend, raw)
    _, cached = await answer(
        backend, GenerationRequest(model="llama", prompt="a" * 40 + text, max_tokens=1)
    )
    # Bytes that are no UTF-8 come back as other tokens: what counts is that it goes past the 40.
    assert cached >= 2 * BLOCK or "�" in text


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65])
async def test_a_token_is_left_to_feed_when_the_whole_prompt_is_cached(
    backend: MLXBackend, length: int
) -> None:
    request = GenerationRequest(model="llama", prompt="b" * length, max_tokens=8)
    first, _ = await answer(backend, request)
    again, cached = await answer(backend, request)
    assert again == first
    assert cached == length - 1


@pytest.mark.slow
@pytest.mark.parametrize("length", [BLOCK + 5, 3 * BLOCK])
@pytest.mark.parametrize(("common", "expected"), [(7, 0), (8, 8), (20, 20), (BLOCK + 3, BLOCK)])
async def test_prompts_that_part_within_a_block_share_what_is_before(
    backend: MLXBackend, plain: MLXBackend, length: int, common: int, expected: int
) -> None:
    """A few tokens are not worth the cutting; the block that they end in has to be full."""
    one, other = ["x" * common + letter * (length - common) for letter in "ab"]
    asked = [GenerationRequest(model="llama", prompt=text, max_tokens=8) for text in (one, other)]
    await answer(backend, asked[0])
    text, cached = await answer(backend, asked[1])
    assert cached == expected
    assert (text, 0) == await answer(plain, asked[1])


async def test_a_prefix_that_was_trimmed_is_not_found(backend: MLXBackend, engine: Engine) -> None:
    asked = GenerationRequest(model="llama", prompt="x" * 40 + "a", max_tokens=1)
    await answer(backend, asked)
    await asyncio.wrap_future(engine.trim_prefixes(2**40))
    _, cached = await answer(backend, asked)
    assert cached == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_shared_between_clients(backend: MLXBackend, kind: str) -> None:
    await answer(backend, chat(kind, LONG, client="one"))
    _, of_another = await answer(backend, chat(kind, LONG, client="two"))
    _, of_the_first = await answer(backend, chat(kind, LONG, client="one"))
    assert of_another == 0
    assert of_the_first > 100


async def test_a_client_that_left_finds_its_prompt_cached(backend: MLXBackend) -> None:
    events = sink.events(backend, chat("llama", LONG, max_tokens=1000))
    async for event in events:
        if isinstance(event, TextDelta):
            break
    await events.aclose()
    _, cached = await answer(backend, chat("llama", LONG))
    assert cached > 100


@pytest.mark.slow
async def test_counters_tell_hits_and_bytes(backend: MLXBackend) -> None:
    await answer(backend, chat("llama", LONG))
    await answer(backend, chat("llama", LONG))
    counters = (await backend.health()).counters
    assert counters["prefix_hits"] == 1
    assert counters["prefix_bytes"] > 0
    await backend.unload("llama")
    counters = (await backend.health()).counters
    assert (counters["prefix_hits"], counters["prefix_bytes"]) == (1, 0)


def test_windows_recurrence_and_chunks_are_not_cut(folder: Path) -> None:
    stores = {
        kind: type(create_prefix_cache(load(folder, kind), config_for(folder)).store).__name__
        for kind in KINDS
    }
    assert stores == {
        "llama": "BlockStore",
        "sliding": "SnapshotStore",
        "mamba": "SnapshotStore",
        "llama4": "SnapshotStore",
    }


def load(folder: Path, kind: str) -> LoadedModel:
    bare = finish(load_folder(folder / kind, "auto", Loading(kind)))
    return finish(proven(bare, config_for(folder)))


def read(loaded: LoadedModel, tokens: list[int]) -> list[Any]:
    from mlx_lm.models.cache import make_prompt_cache

    caches = make_prompt_cache(loaded.model)
    loaded.model(mx.array([tokens]), cache=caches)
    mx.eval([cache.state for cache in caches])
    return caches


def test_prompts_with_one_beginning_share_its_memory(folder: Path) -> None:
    loaded, store = load(folder, "llama"), BlockStore(1 << 30, BLOCK)
    shared = [*range(3 * BLOCK)]
    store.save("", shared, read(loaded, shared))
    alone = store.nbytes
    longer = [*shared, *range(BLOCK)]
    store.save("", longer, read(loaded, longer))
    assert store.nbytes == alone * 4 // 3


def test_the_end_of_a_prompt_leaves_before_its_beginning_when_the_budget_is_full(
    folder: Path,
) -> None:
    loaded, store = load(folder, "llama"), BlockStore(1 << 30, BLOCK)
    tokens = [*range(4 * BLOCK)]
    store.save("", tokens, read(loaded, tokens))
    store.trim(store.nbytes // 2)
    assert store.find("", [*tokens, 1]).tokens == 2 * BLOCK


def test_what_was_used_longest_ago_leaves_first_when_the_budget_is_full(folder: Path) -> None:
    loaded, store = load(folder, "llama"), BlockStore(1 << 30, BLOCK)
    old, new = [1] * (2 * BLOCK), [2] * (2 * BLOCK)
    for tokens in (old, new):
        store.save("", tokens, read(loaded, tokens))
    store.find("", [*old, 1])
    store.trim(store.nbytes // 2)
    assert store.find("", [*old, 1]).tokens == 2 * BLOCK
    assert store.find("", [*new, 1]).tokens == 0


def test_a_prompt_larger_than_the_budget_is_kept_as_far_as_there_is_room(folder: Path) -> None:
    loaded, store = load(folder, "llama"), BlockStore(1 << 30, BLOCK)
    tokens = [*range(4 * BLOCK)]
    store.save("", tokens, read(loaded, tokens))
    small = BlockStore(store.nbytes // 2, BLOCK)
    small.save("", tokens, read(loaded, tokens))
    assert small.nbytes == store.nbytes // 2
    assert small.find("", [*tokens, 1]).tokens == 2 * BLOCK


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "sliding", "mamba"])
async def test_trimming_gives_back_what_is_asked_when_prompts_are_kept(
    backend: MLXBackend, engine: Engine, kind: str
) -> None:
    for n in range(4):
        await answer(backend, chat(kind, f"{n}" + LONG))
    # The last answer is kept once it is delivered: a command comes after that.
    await asyncio.wrap_future(engine.trim_prefixes(0))
    before = engine.counters()["prefix_bytes"]
    freed = await asyncio.wrap_future(engine.trim_prefixes(before // 2))
    assert before // 2 <= freed < before
    assert engine.counters()["prefix_bytes"] == before - freed


def first_row_of_many(loaded: LoadedModel, tokens: list[int]) -> list[Any]:
    """Return caches as a batch hands a row over: a view of arrays with 512 rows."""
    caches = read(loaded, tokens)
    for layer in caches:
        for name in ("keys", "values"):
            one = getattr(layer, name)
            setattr(layer, name, mx.contiguous(mx.broadcast_to(one, (512, *one.shape[1:])))[:1])
    mx.eval([cache.state for cache in caches])
    return caches


@pytest.mark.parametrize("kind", ["llama", "sliding"])
def test_what_is_kept_does_not_keep_the_batch_it_was_cut_from(folder: Path, kind: str) -> None:
    loaded = load(folder, kind)
    cache = create_prefix_cache(loaded, config_for(folder))
    caches = first_row_of_many(loaded, [1] * 64)
    with_batch = mx.get_active_memory()
    cache.save("", [1] * 64, caches)
    del caches
    assert 0 < cache.nbytes < 100_000
    assert mx.get_active_memory() < with_batch - 10_000_000


def test_a_block_is_small_on_a_cpu() -> None:
    assert choose_block() == BLOCK
