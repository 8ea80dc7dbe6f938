"""Proof at load: batches, padded prompts, quantised caches, drafts."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import ForwardPasses
from fakes.scripted_model import answer, chat, told
from fakes.tiny_architectures import random_model, tiny_config, write_tiny_architecture
from fakes.tiny_model import config_for, write_tiny_model
from mlx_lm.models import llama

from adapters.backend import Model
from adapters.config import MLXModel
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.proof import attempt, prove, quantises
from adapters.mlx.jobs import finish
from adapters.request import Sampling

SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}


def model_of(module: str, **changed: Any) -> Any:
    return random_model(import_module(f"mlx_lm.models.{module}"), tiny_config(module, changed))


@asynccontextmanager
async def opened(folder: Path, **fields: Any) -> AsyncGenerator[MLXBackend]:
    backend = MLXBackend(config_for(folder, **fields))
    try:
        yield backend
    finally:
        await backend.aclose()


async def loaded(backend: MLXBackend, name: str) -> Model:
    await backend.load(name)
    return next(model for model in await backend.list_models() if model.name == name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "batches", "together"),
    [
        ("llama", True, True),
        ("gemma3_text", True, False),
        ("mamba", True, False),
        # A mask of rows is broadcast over the heads of keys.
        ("gemma2", False, False),
        ("gpt_bigcode", False, False),
        # Layers that share keys add positions of their own.
        ("afm7", False, False),
        # Blocks of keys are cut from the beginning of the padding.
        ("minimax_m3_vl", False, False),
        # Caches without `merge`.
        ("llama4", False, False),
    ],
)
def test_batches_are_proved_by_computing(module: str, batches: bool, together: bool) -> None:
    result = finish(prove(model_of(module)))
    assert (result.batches, result.reads_together) == (batches, together)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize(
    ("module", "batches"), [("llama", True), ("qwen3", True), ("cohere2", True), ("gemma2", False)]
)
def test_rounding_of_short_types_is_no_reason_against_batches(
    module: str, batches: bool, dtype: mx.Dtype
) -> None:
    model = model_of(module)
    model.set_dtype(dtype)
    assert finish(prove(model)).batches is batches


@pytest.mark.parametrize(
    ("module", "changed", "able"),
    [
        ("llama", {"head_dim": 64}, True),
        ("llama", {}, False),
        ("llama", SLIDING | {"head_dim": 64}, False),
        ("deepseek_v3", {}, False),
        ("mamba", {}, False),
    ],
)
def test_quantised_caches_are_proved_by_computing(
    module: str, changed: dict[str, Any], able: bool
) -> None:
    model = model_of(module, **changed)
    assert bool(attempt(lambda: quantises(model, 8))) is able


@pytest.mark.slow
async def test_card_says_where_the_model_has_no_sliding_window(tmp_path: Path) -> None:
    write_tiny_architecture(tmp_path / "phi3", "phi3", {"sliding_window": 100})
    async with opened(tmp_path) as backend:
        (note,) = (await loaded(backend, "phi3")).notes
    assert note.startswith("Past 100 tokens its text is another one")


@pytest.mark.slow
async def test_a_model_that_cannot_be_batched_says_so_and_answers_each_request_as_alone(
    tmp_path: Path,
) -> None:
    write_tiny_architecture(tmp_path / "gemma2", "gemma2", {"sliding_window": 512})
    async with opened(tmp_path) as backend:
        card = await loaded(backend, "gemma2")
        assert card.notes == (
            "It answers one request at a time: mlx-lm computes its batches differently.",
        )
        request = chat("Hi", "gemma2", max_tokens=12)
        alone = told(await answer(backend, request))["text"]
        both = await answer(backend, chat("Hi", "gemma2", max_tokens=12, n=2))
        assert [told(both, choice)["text"] for choice in (0, 1)] == [alone, alone]


@pytest.mark.slow
async def test_a_proof_is_kept_for_the_next_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path / "kept")
    passes = ForwardPasses(monkeypatch, llama.Model)
    async with opened(tmp_path) as backend:
        assert (await loaded(backend, "kept")).notes == ()
    first = len(passes.shapes)
    async with opened(tmp_path) as backend:
        await backend.load("kept")
        assert len(passes.shapes) - first == 1, "only the footprint is measured anew"
        (tmp_path / "kept" / "config.json").touch()
        await backend.unload("kept")
        await backend.load("kept")
        assert len(passes.shapes) > first * 2


@pytest.mark.slow
async def test_a_draft_is_not_used_with_sliding_windows(tmp_path: Path) -> None:
    """A full window has no place for tokens that were guessed wrong: answers would differ."""
    models = tmp_path / "models"
    write_tiny_model(models / "base", "sliding")
    (models / "base" / "config.json").write_text(
        (models / "base" / "config.json").read_text().replace('"sliding"', '"llama"')
    )
    fast = MLXModel(base="base", draft="base")
    async with opened(models, models={"fast": fast}) as backend:
        card = await loaded(backend, "fast")
        assert card.notes == (
            "Its draft is not used: wrong guesses cannot be removed from sliding windows or "
            "states.",
        )
        for text in ("Hi", "A prompt that is longer than the window of sixteen tokens."):
            for sampling in (Sampling(), Sampling(temperature=1.0, seed=5)):
                texts = {
                    name: told(await answer(backend, chat(text, name, sampling=sampling)))["text"]
                    for name in ("base", "fast")
                }
                assert texts["base"] == texts["fast"]


@pytest.mark.slow
async def test_quantised_caches_are_left_out_where_a_model_has_none(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "narrow")
    async with opened(tmp_path, kv_bits=8) as backend:
        card = await loaded(backend, "narrow")
        assert card.notes == ("Its keys and values are not quantised: its caches cannot be.",)
        quantised = told(await answer(backend, chat(model="narrow")))["text"]
    async with opened(tmp_path) as backend:
        assert told(await answer(backend, chat(model="narrow")))["text"] == quantised
