"""Configured models with a base: with a LoRA folder, with a draft model."""

import json
import logging
import shutil
from contextlib import aclosing
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import pytest
from fakes.engine_client import ForwardPasses
from fakes.scripted_model import answer, chat, told
from fakes.tiny_model import config_for, write_tiny_model
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from adapters.config import MLXModel
from adapters.errors import GenerationError, ModelNotFoundError
from adapters.mlx.backend import MLXBackend
from adapters.mlx.models.catalog import find_models
from adapters.request import Sampling

pytestmark = pytest.mark.slow

SCALE = 3.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `merged` (with the LoRA already added to its weights), and the LoRA in `../lora`."""
    root = tmp_path_factory.mktemp("made")
    write_tiny_model(root / "models" / "base")
    write_tiny_model(root / "models" / "merged")
    write_lora(root / "lora", root / "models" / "base", root / "models" / "merged")
    return root


def write_lora(folder: Path, base: Path, merged: Path) -> None:
    folder.mkdir()
    model: Any = load_model(base)[0]
    # What it drops in training must not be dropped in answers.
    parameters = {
        "rank": 4,
        "scale": SCALE,
        "dropout": 0.9,
        "keys": ["self_attn.q_proj", "mlp.down_proj"],
    }
    linear_to_lora_layers(model, 2, parameters)
    mx.random.seed(11)
    named: Any = tree_flatten(model.parameters())
    learned = {
        name: mx.random.normal(array.shape) * 0.3
        for name, array in named
        if name.endswith(("lora_a", "lora_b"))
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), learned)
    about = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    weights: Any = mx.load(str(merged / "model.safetensors"))
    for name in {name.rpartition(".")[0] for name in learned}:
        added = (learned[f"{name}.lora_a"] @ learned[f"{name}.lora_b"]).T
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + SCALE * added
    mx.eval(weights)
    mx.save_safetensors(str(merged / "model.safetensors"), weights)


def entry(folder: Path, **parts: str) -> MLXModel:
    shown = {part: value.replace("ROOT", str(folder)) for part, value in parts.items()}
    return MLXModel(**{"base": "base", **shown})


def opened(folder: Path, **models: MLXModel) -> "aclosing[MLXBackend]":
    return aclosing(MLXBackend(config_for(folder / "models", models=models)))


async def text(backend: MLXBackend, model: str, sampling: Sampling | None = None) -> str:
    request = chat("Hello", model, max_tokens=40, sampling=sampling or Sampling())
    return told(await answer(backend, request))["text"]


async def test_lora_has_the_answer_of_merged_weights(folder: Path) -> None:
    async with opened(folder, tuned=entry(folder, lora="ROOT/lora")) as backend:
        assert await text(backend, "tuned") == await text(backend, "merged")
        assert await text(backend, "tuned") != await text(backend, "base")


async def test_answer_is_the_same_with_a_draft_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = Sampling(temperature=1.0, seed=3)
    async with opened(folder, fast=entry(folder, draft="merged")) as backend:
        for sampling in (Sampling(), wild):
            assert await text(backend, "fast", sampling) == await text(backend, "base", sampling)
        passes = ForwardPasses(monkeypatch, llama.Model)
        await text(backend, "fast")
        assert (1, 4) in passes.shapes, "no pass checks three guesses at once"


async def test_configured_models_are_listed_by_name(folder: Path) -> None:
    named = entry(folder, base="ROOT/models/base", lora="ROOT/lora")
    async with opened(folder, tuned=named, again=entry(folder)) as backend:
        listed = {model.name: model for model in await backend.list_models()}
        assert set(listed) == {"base", "merged", "tuned", "again"}
        assert listed["tuned"].context_length == listed["base"].context_length


async def test_lora_model_has_no_origin(folder: Path) -> None:
    base = folder / "models" / "base" / "conversion.json"
    base.write_text(json.dumps({"origin": "sha256:1"}))
    try:
        made = {"tuned": entry(folder, lora="ROOT/lora"), "again": entry(folder)}
        folders = find_models(config_for(folder / "models", models=made))
        assert folders["again"].model.origin == "sha256:1"
        assert folders["tuned"].model.origin is None
    finally:
        base.unlink()


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"base": "absent"}, "'absent' is not on this machine"),
        ({"draft": "absent"}, "'absent' is not on this machine"),
        ({"lora": "ROOT/models"}, "lacks adapter_config.json or adapters.safetensors"),
    ],
)
async def test_model_without_a_part_is_not_listed_and_has_a_reason(
    folder: Path, parts: dict[str, str], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(folder, broken=entry(folder, **parts)) as backend:
        with caplog.at_level(logging.WARNING):
            names = [model.name for model in await backend.list_models()]
            await backend.list_models()
        assert "broken" not in names
        assert [why in record.getMessage() for record in caplog.records] == [True]
        with pytest.raises(ModelNotFoundError, match=why):
            await backend.load("broken")


async def test_lora_of_another_shape_is_rejected_when_loaded(folder: Path, tmp_path: Path) -> None:
    weights: Any = mx.load(str(folder / "lora" / "adapters.safetensors"))
    bad = {name: mx.zeros((3, 3)) for name in weights}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), bad)
    about = (folder / "lora" / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(about)
    async with opened(folder, tuned=entry(folder, lora=str(tmp_path))) as backend:
        with pytest.raises(GenerationError, match="'tuned' could not be loaded") as caught:
            await backend.load("tuned")
        assert str(tmp_path) not in caught.value.message
        assert "tuned" not in [model.name for model in await backend.list_models()]
        assert "could not be loaded: ValueError" in backend.unusable()["tuned"]


async def test_draft_with_other_tokens_is_rejected(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other")
    words = msgspec.json.decode((other / "tokenizer.json").read_bytes())
    vocabulary = words["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_bytes(msgspec.json.encode(words))
    async with opened(folder, fast=entry(folder, draft=str(other))) as backend:
        with pytest.raises(GenerationError, match="vocabulary differs"):
            await backend.load("fast")


async def test_embedding_model_cannot_be_a_base(folder: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors"
    shutil.copytree(folder / "models" / "base", vectors)
    config = msgspec.json.decode((vectors / "config.json").read_bytes())
    (vectors / "config.json").write_bytes(msgspec.json.encode(config | {"model_type": "bert"}))
    async with opened(folder, x=entry(folder, base=str(vectors))) as backend:
        await backend.list_models()
        assert "is an embedding model" in backend.unusable()["x"]
