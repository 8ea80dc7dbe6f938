"""A `config.json` means to mlx-lm's code what it means to transformers, or the model is refused."""

import asyncio
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import EngineClient
from fakes.tiny_architectures import write_tiny_architecture
from fakes.tiny_model import config_for, write_tiny_model
from mlx_lm.models import jamba

from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.repairs import repaired
from adapters.mlx.models.rope_settings import classes_of
from adapters.mlx.models.transformers_settings import with_output

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


def test_settings_with_another_name_are_read():
    read = arguments("qwen3_moe", **MOE)
    assert (read.num_experts, read.head_dim) == (4, 16)


def test_kinds_of_layers_become_the_pattern_that_the_code_reads():
    assert arguments("gemma3_text", layer_types=[SLIDING, FULL] * 2).sliding_window_pattern == 2
    assert arguments("cohere2", layer_types=[FULL] * 4).sliding_window_pattern == 1


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
        ("gemma3_text", {"layer_types": [FULL, SLIDING, SLIDING, FULL]}, "layer_types"),
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob True"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv 8.0"),
        ("starcoder2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type 'linear'"),
        ("lfm2", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "type 'yarn'"),
        ("recurrent_gemma", {"rope_theta": 5e5}, "rope_theta 500000.0"),
        ("deepseek_v3", {"rope_interleave": False}, "rope_interleave False"),
    ],
)
def test_setting_that_the_code_leaves_out_is_refused(
    kind: str, settings: dict[str, Any], named: str
):
    with pytest.raises(ValueError, match=named):
        arguments(kind, **settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"hidden_act": "silu"}),
        ("gemma2", {"hidden_activation": "gelu", "hidden_act": "relu"}),
        ("phi3", {"hidden_act": "swish"}),
        ("starcoder2", {"rope_scaling": None}),
        ("qwen2_moe", {"norm_topk_prob": False}),
        ("llama", {"hidden_act": "relu", "auto_map": {}}),  # Code of its authors.
    ],
)
def test_setting_that_the_code_has_by_itself_is_taken(kind: str, settings: dict[str, Any]):
    config = {"model_type": kind, **SIZES, **settings}
    classes_of(config)


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


async def test_part_of_a_head_is_turned_in_glm_4(tmp_path: Path):
    folders = [write_tiny_architecture(tmp_path / n, "glm") for n in ("whole", "half", "unsaid")]
    for folder, part in zip(folders, (1.0, 0.5, ...), strict=True):
        rewrite_config(folder, partial_rotary_factor=part)
    found = await logits_of(*folders)
    assert mx.array_equal(found["unsaid"], found["half"])
    assert not mx.allclose(found["whole"], found["half"])


def test_experts_of_jamba_have_their_weight_among_all():
    repaired(jamba.Model, jamba)
    read = arguments("jamba", num_experts=4, num_experts_per_tok=1)
    block: Any = jamba.JambaSparseMoeBlock(read)
    x = mx.random.normal((1, 3, 64))
    gates = mx.softmax(block.router(x), axis=-1)
    chosen = mx.argmax(gates, axis=-1, keepdims=True)
    expected = block.switch_mlp(x, chosen)[..., 0, :] * mx.max(gates, axis=-1, keepdims=True)
    assert mx.allclose(block(x), expected, atol=1e-5)
