"""A `config.json` means to mlx-lm's code what it means to transformers, or the card says so."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import EngineClient
from fakes.tiny_architectures import write_tiny_architecture
from fakes.tiny_model import config_for, write_tiny_model
from mlx_lm.utils import _get_classes

from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.rope_settings import classes_of
from adapters.mlx.models.transformers_settings import unread, with_output

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
MOE = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
}
SLIDING, FULL = "sliding_attention", "full_attention"


def arguments(kind: str, **settings: Any) -> Any:
    config = {"model_type": kind, **SIZES, **settings}
    _, arguments = classes_of(config)
    return arguments.from_dict(config)


def notes_of(kind: str, **settings: Any) -> tuple[str, ...]:
    config = {"model_type": kind, **SIZES, **settings}
    _, arguments = _get_classes(config)
    return unread(config, sys.modules[arguments.__module__])


def test_settings_with_another_name_are_read():
    read = arguments("qwen3_moe", **MOE)
    assert (read.num_experts, read.head_dim) == (4, 16)


def test_kinds_of_layers_become_the_pattern_that_the_code_reads():
    assert arguments("gemma3_text", layer_types=[SLIDING, FULL] * 2).sliding_window_pattern == 2
    assert arguments("cohere2", layer_types=[FULL] * 4).sliding_window_pattern == 1


def test_kinds_of_layers_without_a_period_are_refused_where_the_code_reads_a_pattern():
    with pytest.raises(ValueError, match="layer_types have no period"):
        arguments("gemma3_text", layer_types=[FULL, SLIDING, SLIDING, FULL])


def test_words_that_transformers_has_replaced_are_those_of_the_code():
    read = arguments(
        "granitemoehybrid",
        attention_bias=False,
        embedding_multiplier=1.0,
        attention_multiplier=1.0,
        logits_scaling=1.0,
        residual_multiplier=1.0,
        layer_types=["linear_attention", FULL] * 2,
        position_embedding_type=None,
        time_step_limit=[0.0, {"__float__": "Infinity"}],
    )
    assert read.layer_types == ["mamba", "attention"] * 2
    assert read.position_embedding_type == "nope"
    assert read.time_step_limit == [0.0, float("inf")]


def test_base_of_dbrx_is_that_beside_its_attention():
    config = {
        "model_type": "dbrx",
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4},
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
    }
    classes_of(config)
    assert config["attn_config"] == {"kv_n_heads": 2, "rope_theta": 5e5}


def test_settings_of_single_layers_are_those_of_full_attention():
    read = arguments("gemma4_text", per_layer_config={"3": {"head_dim": 48}})
    assert read.global_head_dim == 48


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("llama", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob True"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv 8.0"),
        ("starcoder2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type 'linear'"),
        ("lfm2", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "type 'yarn'"),
        ("recurrent_gemma", {"rope_theta": 5e5}, "rope_theta 500000.0"),
        ("deepseek_v3", {"rope_interleave": False}, "rope_interleave False"),
    ],
)
def test_setting_that_the_code_leaves_out_is_told(kind: str, settings: dict[str, Any], named: str):
    (note,) = notes_of(kind, **settings)
    assert named in note


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"hidden_act": "silu"}),
        ("gemma2", {"hidden_activation": "gelu", "hidden_act": "relu"}),
        ("phi3", {"hidden_act": "swish"}),
        ("starcoder2", {"rope_scaling": None}),
        ("qwen2_moe", {"norm_topk_prob": False}),
        ("llama", {"hidden_act": "relu", "auto_map": {}}),  # Code of its authors.
        ("llama4_text", {"no_rope_layers": []}),
    ],
)
def test_nothing_is_told_of_what_the_code_has_by_itself(kind: str, settings: dict[str, Any]):
    assert notes_of(kind, **settings) == ()


async def test_card_says_what_the_code_leaves_out(tmp_path: Path):
    folder = write_tiny_architecture(tmp_path / "m", "llama")
    rewrite_config(folder, hidden_act="relu")
    client = EngineClient(Engine(config_for(tmp_path)))
    loaded = await client.load(folder)
    await asyncio.to_thread(client.engine.close)
    assert "Its hidden_act 'relu' has no effect: mlx-lm's code has 'silu'." in loaded.notes


@pytest.mark.parametrize(("long", "told"), [(2.0, True), (1.0, False)])
async def test_card_says_that_short_texts_lack_their_factors(
    tmp_path: Path, long: float, told: bool
):
    folder = write_tiny_architecture(tmp_path / "m", "llama")
    config = json.loads((folder / "config.json").read_bytes())
    width = (config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]) // 2
    rope = {"type": "longrope", "original_max_position_embeddings": 64}
    rope |= {"short_factor": [1.0] * width, "long_factor": [long] * width}
    rewrite_config(folder, rope_scaling=rope)
    client = EngineClient(Engine(config_for(tmp_path)))
    loaded = await client.load(folder)
    await asyncio.to_thread(client.engine.close)
    note = "Up to 64 tokens its text is another one: mlx-lm has no short factors."
    assert (note in loaded.notes) == told


async def logits_of(*folders: Path) -> dict[str, mx.array]:
    client = EngineClient(Engine(config_for(folders[0].parent)))
    tokens = mx.arange(1, 40)[None]
    found = {path.name: (await client.load(path)).model(tokens) for path in folders}
    await asyncio.to_thread(client.engine.close)
    return found


def rewrite_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_bytes()) | settings
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))


async def test_output_matrix_is_used_without_a_word_of_the_config(tmp_path: Path):
    silent = write_tiny_architecture(tmp_path / "silent", "llama")
    rewrite_config(silent, tie_word_embeddings=...)
    found = await logits_of(silent, write_tiny_architecture(tmp_path / "untied", "llama"))
    assert mx.array_equal(found["silent"], found["untied"])


def test_words_of_the_config_about_the_output_matrix_stay(tmp_path: Path):
    folder = write_tiny_model(tmp_path / "model")
    own = {"tie_word_embeddings": False}
    assert with_output(folder, own) == {}
    texts = with_output(folder, {"tie_word_embeddings": True, "text_config": own})["text_config"]
    assert texts["tie_word_embeddings"]
