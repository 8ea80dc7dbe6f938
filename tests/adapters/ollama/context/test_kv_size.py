"""The arithmetic of contexts, and what it makes of real models' `model_info`."""

from typing import Any

import pytest

from adapters.ollama.context.kv_size import (
    KeyValues,
    choose,
    key_values,
    longest,
    power_of_two,
    room_in_memory,
)

# From /api/show of smollm2:135m: 30 layers, 3 heads of 64.
LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 30,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.embedding_length": 576,
}


@pytest.mark.parametrize(("tokens", "power"), [(1, 1), (2, 2), (3, 4), (4096, 4096), (4097, 8192)])
def test_power_of_two(tokens: int, power: int):
    assert power_of_two(tokens) == power


@pytest.mark.parametrize(
    ("needed", "loaded", "limit", "chosen"),
    [
        (10, None, None, 4096),
        (5000, None, None, 8192),
        (5000, None, 6000, 6000),
        (5000, 5500, None, 5500),
        (10, 32768, None, 32768),
        (10, 512, None, 512),
        (600, 512, None, 4096),
        (9000, 8192, 8192, 8192),
        (10, 32768, 8192, 8192),
    ],
)
def test_context_chosen(needed: int, loaded: int | None, limit: int | None, chosen: int):
    assert choose(needed, loaded=loaded, floor=4096, limit=limit) == chosen


def test_keys_and_values_of_a_plain_model():
    # 30 layers x 3 heads x (64 + 64) numbers of 2 bytes.
    assert key_values(LLAMA) == KeyValues(30 * 3 * 128 * 2)


def test_keys_and_values_with_lengths_of_their_own():
    info = LLAMA | {"llama.attention.key_length": 128, "llama.attention.value_length": 64}
    assert key_values(info) == KeyValues(30 * 3 * 192 * 2)


def test_keys_and_values_of_layers_that_differ():
    info = LLAMA | {"llama.block_count": 3, "llama.attention.head_count_kv": [3, 0, 1]}
    assert key_values(info) == KeyValues(4 * 128 * 2)


def test_keys_and_values_that_are_compressed():
    info = LLAMA | {"llama.attention.kv_lora_rank": 512, "llama.rope.dimension_count": 64}
    assert key_values(info) == KeyValues(30 * 576 * 2)


def test_keys_and_values_of_a_model_with_a_window():
    info = {key.replace("llama", "gemma3"): value for key, value in LLAMA.items()}
    info |= {"general.architecture": "gemma3", "gemma3.attention.sliding_window": 1024}
    cost = key_values(info)
    assert cost is not None
    whole = 30 * 3 * 128 * 2
    assert cost.bytes(1024) == pytest.approx(whole * 1024, abs=1)
    assert cost.bytes(11_264) == pytest.approx(whole * 1024 + whole / 6 * 10_240, abs=1)
    assert cost.tokens(cost.bytes(11_264)) in (11_263, 11_264)
    assert cost.tokens(cost.bytes(500)) in (499, 500)


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"general.architecture": "llama"},
        {**LLAMA, "llama.attention.head_count_kv": [1, 2]},
        {**LLAMA, "llama.ssm.state_size": 128},
        {**LLAMA, "llama.embedding_length": None},
    ],
)
def test_keys_and_values_are_unknown_where_figures_are_missing(info: dict[str, Any]):
    assert key_values(info) is None


def test_room_in_memory_is_what_the_weights_leave():
    cost = KeyValues(100)
    assert room_in_memory(cost, 1000, 51_000) == 500
    assert room_in_memory(cost, 1000, 1000) == 0
    assert room_in_memory(None, 1000, 51_000) is None
    assert room_in_memory(cost, None, 51_000) is None
    assert room_in_memory(cost, 1000, None) is None


def test_longest_is_the_strictest_limit_that_is_known():
    assert longest(None, 8192, 4000) == 4000
    assert longest(None, None) is None
