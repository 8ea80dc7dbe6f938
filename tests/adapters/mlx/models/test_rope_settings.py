"""Settings of transformers 5 give the model of mlx-lm what the older names give."""

import asyncio
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import EngineClient
from fakes.tiny_model import config_for, write_tiny_model

from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.rope_settings import classes_of

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": 300,
}
NEOX = {
    "model_type": "gpt_neox",
    "max_position_embeddings": 512,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "layer_norm_eps": 1e-5,
    "vocab_size": 300,
    "use_parallel_residual": True,
}
GEMMA = {**LLAMA, "model_type": "gemma3_text"}

SAME: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (LLAMA, {"rope_theta": 5e5, "rope_type": "default"}, {"rope_theta": 5e5}),
    (
        LLAMA,
        {"rope_theta": 5e5, **YARN},
        {"rope_theta": 5e5, "rope_scaling": {"rope_theta": 5e5, "type": "yarn", **YARN}},
    ),
    (
        NEOX,
        {"rope_theta": 2e4, "partial_rotary_factor": 0.5, "rope_type": "default"},
        {"rotary_emb_base": 2e4, "rotary_pct": 0.5},
    ),
    (
        GEMMA,
        {
            "full_attention": {"rope_theta": 2e6, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 3e4, "rope_type": "default"},
        },
        {
            "rope_theta": 2e6,
            "rope_local_base_freq": 3e4,
            "rope_scaling": {
                "type": "linear",
                "rope_type": "linear",
                "factor": 8.0,
                "rope_theta": 2e6,
            },
        },
    ),
]


def arguments(config: dict[str, Any]) -> Any:
    _, kind = classes_of(config)
    return kind.from_dict(config)


@pytest.mark.parametrize(("shape", "new", "old"), SAME, ids=lambda each: each.get("model_type"))
def test_new_settings_are_those_of_the_older_names(
    shape: dict[str, Any], new: dict[str, Any], old: dict[str, Any]
):
    assert arguments({**shape, "rope_parameters": new}) == arguments({**shape, **old})


def test_older_names_in_the_file_stay():
    config = {**LLAMA, "rope_theta": 1e6, "rope_parameters": {"rope_theta": 5e5}}
    assert arguments(config).rope_theta == 1e6


def test_a_model_that_reads_the_new_name_gets_no_other():
    shape = {**LLAMA, "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8}
    shape |= {"max_position_embeddings": 512, "tie_word_embeddings": True}
    config = {**shape, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    assert arguments(config).rope_theta == 5e5
    assert "rope_theta" not in config


def test_settings_within_a_text_config_are_read():
    texts = {**LLAMA, "model_type": "qwen2_vl_text", "num_key_value_heads": 2}
    texts["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "default"}
    config: dict[str, Any] = {"model_type": "qwen2_vl", "text_config": texts}
    assert arguments(config).text_config["rope_theta"] == 5e5


def test_base_that_no_name_is_read_for_is_refused():
    kinds = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    with pytest.raises(ValueError, match="sliding_attention are not read"):
        classes_of({**LLAMA, "rope_parameters": kinds})


async def test_loaded_model_computes_with_its_own_base(tmp_path: Path):
    old = write_tiny_model(tmp_path / "old")
    new = write_tiny_model(tmp_path / "new")
    for folder, changed in (
        (old, {"rope_theta": 300.0}),
        (new, {"rope_parameters": {"rope_theta": 300.0, "rope_type": "default"}}),
    ):
        config = json.loads((folder / "config.json").read_bytes())
        config.pop("rope_theta", None)
        (folder / "config.json").write_text(json.dumps(config | changed))
    write_tiny_model(tmp_path / "default")
    client = EngineClient(Engine(config_for(tmp_path)))
    tokens = mx.arange(1, 40)[None]
    logits = {
        name: (await client.load(tmp_path / name)).model(tokens)
        for name in ("old", "new", "default")
    }
    await asyncio.to_thread(client.engine.close)
    assert mx.array_equal(logits["old"], logits["new"])
    assert not mx.allclose(logits["old"], logits["default"])
