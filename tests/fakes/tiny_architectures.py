"""Tiny random models of every architecture of the installed mlx-lm.

One table of sizes serves all modules, because mlx-lm takes of a `config.json` what a module knows;
`OWN` has what a module names or combines otherwise. Sizes differ from each other where a module
allows it, so that no axis can pass for another: 4 heads over 2 of keys and values, a width of 64.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from fakes.tiny_model import END, TEMPLATE, write_tokenizer
from mlx.utils import tree_flatten, tree_map
from mlx_lm import models as mlx_lm_models

from adapters.mlx.models.architectures import read_module

WIDTH, HEADS, KV_HEADS, HEAD, VOCABULARY = 64, 4, 2, 16, 258
WINDOW = 16
"""Tokens of a sliding window: prompts of the sweep are longer."""

SHARED: dict[str, Any] = {
    # Widths
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    # Attention
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "use_qkv_bias": True,
    "use_qk_norm": True,
    "qk_norm": True,
    "post_norm": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5,
    "norm_epsilon": 1e-5,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
    # Latent attention
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "index_head_dim": 16,
    "index_n_heads": 4,
    "index_topk": 8,
    # Experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "num_shared_expert": 1,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
    "shared_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "routed_scaling_factor": 1.5,
    "num_dense_layers": 1,
    "use_expert_bias": True,
    # Recurrent layers
    "conv_kernel": 4,
    "state_size": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "use_conv_bias": True,
    "time_step_rank": 4,
    "time_step_limit": [0.001, 100.0],
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_proj_bias": False,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_ssm": 128,
    "mamba_n_groups": 1,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "linear_allow_neg_eigval": True,
    "conv_L_cache": 3,
    "conv_bias": False,
    # Scales
    "logits_scaling": 2.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "scale_depth": 1.4,
    "scale_emb": 2,
    "dim_model_base": 32,
    "n_positions": 512,
    "n_ctx": 512,
    "n_embd": WIDTH,
    "n_layer": 2,
    "n_head": HEADS,
    "n_inner": 96,
}


LEFT_OUT = object()
"""Value of a setting of `SHARED` that the `config.json` of a module must not have."""
_NO_TYPES = {"layer_types": LEFT_OUT}
"""transformers derives the types of layers and refuses to be given them."""
_FOUR = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
_YARN = {
    "type": "yarn", "rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
    "original_max_position_embeddings": 128, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
    "mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip
_BY_LAYER = {"rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE}}
_DELTA = {
    "linear_attn_config": {
        "kda_layers": [1], "full_attn_layers": [2], "num_heads": 4, "head_dim": 16,
        "short_conv_kernel_size": 4,
    },
    "model_max_length": 512, "hidden_act": "situ", "activation_situ_beta": 4.0,
    "activation_situ_linear_beta": 25.0, "attn_res_block_size": 2,
}  # fmt: skip
_LONGCAT = {
    "attention_method": "MLA", "zero_expert_type": "identity", "ffn_hidden_size": 96,
    "expert_ffn_hidden_size": 48, "zero_expert_num": 2, "num_layers": 2,
    "mla_scale_q_lora": True, "mla_scale_kv_lora": True,
}  # fmt: skip
_DELTA_NET = {"full_attention_interval": 2}

OWN: dict[str, dict[str, Any]] = {
    "afm7": {
        "hidden_dim": WIDTH, "num_layers": 3, "num_kv_reuse_layers": 1,
        "num_heads": HEADS, "num_kv_heads": KV_HEADS,
    },
    "baichuan_m1": {"sliding_window_layers": [0], "conv_window": 2},
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 2, **_FOUR},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 2, **_FOUR},
    "bailing_moe_v3": {
        "model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"],
        "layer_group_size": 2, "group_norm_size": 2, **_FOUR,
    },
    "cohere2": {"sliding_window_pattern": 2},
    "dbrx": {
        "d_model": WIDTH, "n_layers": 2, "n_heads": HEADS,
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8, "rope_theta": 10000.0},
    },
    "deepseek_v2": {"rope_scaling": _YARN, "topk_method": "greedy"},
    "deepseek_v41": {
        "o_groups": 2, "o_lora_rank": 24, "hc_mult": 2, "compress_ratios": [4, 4],
        "kv_source_layer_ids": [0], "index_source_layer_ids": [0], "rms_norm_eps": 1e-6,
    },
    "exaone": {"num_layers": 2},
    "falcon_h1": _NO_TYPES,
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"is_moe_layer": [False, True]},
    "gemma3_text": {"sliding_window_pattern": 2, **_FOUR},
    "gemma3n": {
        "num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY,
        "rope_local_base_freq": 10000.0, "final_logit_softcapping": 30.0,
        "activation_sparsity_pattern": [0.5] * 4, "hidden_size_per_layer_input": 16,
        "altup_num_inputs": 2, "altup_coef_clip": 120.0, "altup_correct_scale": True,
        "altup_active_idx": 0, "laurel_rank": 16, **_FOUR,
    },
    "gemma4_text": {
        "num_kv_shared_layers": 2, "global_head_dim": 32, "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 16, "sliding_window_pattern": 2, **_FOUR,
    },
    "glm_moe_dsa": {"rope_parameters": _ROPE},
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.5},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan": {
        "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
        "use_mixed_mlp_moe": True, "use_cla": True, "cla_share_factor": 2,
    },
    "jamba": {
        "attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1,
        "expert_layer_period": 2, **_NO_TYPES,
    },
    "kimi_linear": _DELTA,
    "kimi_k3": _DELTA,
    "lfm2": {
        "block_dim": WIDTH, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"],
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lille-130m": {"block_size": 512, "n_kv_heads": KV_HEADS},
    "llama": {"layer_types": None, "sliding_window": None},
    "llama4_text": {"intermediate_size_mlp": 96, "no_rope_layers": [1, 0]},
    "longcat_flash": _LONGCAT,
    "longcat_flash_ngram": {
        **_LONGCAT, "ngram_vocab_size_ratio": 2, "emb_neighbor_num": 2, "emb_split_num": 2,
    },
    "mamba": _NO_TYPES,
    "mamba2": {"num_heads": 8, "model_type": "mamba2", **_NO_TYPES},
    "mellum": _BY_LAYER,
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [1, 0], "moe_layer_freq": [0, 1], "sliding_window_size": WINDOW,
        "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False,
        "swa_rope_theta": 10000.0, "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": KV_HEADS, "swa_head_dim": HEAD, "swa_v_head_dim": 16,
    },
    "minicpm3": {
        "logits_scaling": LEFT_OUT,  # transformers derives it.
        "rope_scaling": {
            "original_max_position_embeddings": 128, "type": "longrope",
            "short_factor": [1.0] * 4, "long_factor": [1.0] * 4,
        },
    },
    "minimax": {"rotary_dim": 8},
    "ministral3": {"rope_parameters": _YARN},
    "mistral4": {"rope_parameters": _YARN},
    "muse_glimmer": _BY_LAYER,
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
        ],
    },
    "nemotron_h": {**_NO_TYPES, "hybrid_override_pattern": "M*-E", "num_hidden_layers": 4},
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "openelm": {
        "num_transformer_layers": 2, "model_dim": WIDTH, "ffn_dim_divisor": 8,
        "num_query_heads": [4, 4], "num_kv_heads": [2, 2], "ffn_multipliers": [1.0, 1.5],
    },
    "phi3small": {
        "dense_attention_every_n_layers": 2, "ff_intermediate_size": 96, "gegelu_limit": 20.0,
        "blocksparse_block_size": 64, "blocksparse_num_local_blocks": 2,
        "blocksparse_vert_stride": 2,
    },
    "phixtral": {
        "num_vocab": VOCABULARY, "model_dim": WIDTH, "num_heads": HEADS, "num_layers": 2,
        "rotary_dim": 8,
    },
    "plamo": {"n_shared_head": 2},
    "plamo2": {"hidden_size_per_head": HEAD, "attention_window_size": WINDOW, "mamba_step": 2},
    "plamo3": {"window_size": WINDOW, "sliding_window_pattern": 2},
    "qwen": {"kv_channels": HEAD, "num_key_value_heads": HEADS},
    "qwen3_5_text": _DELTA_NET,
    "qwen3_next": _DELTA_NET,
    "recurrent_gemma": {
        "conv1d_width": 4, "logits_soft_cap": 30.0, "attention_window_size": WINDOW,
        "block_types": ["recurrent", "attention"], "num_key_value_heads": 1, **_NO_TYPES,
    },
    "rwkv7": {
        "a_low_rank_dim": 16, "v_low_rank_dim": 16, "gate_low_rank_dim": 16,
        "decay_low_rank_dim": 16,
    },
    "spark2_5": _BY_LAYER,
    "step3p5": {
        "num_attention_groups": KV_HEADS, "moe_top_k": 2, "share_expert_dim": 48,
        "moe_layers_enum": "1", "partial_rotary_factors": None,
    },
}  # fmt: skip
"""Settings that a module alone has, or has otherwise."""

TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", {}),
    "gemma3n": ("gemma3n", {}),
    "gemma4": ("gemma4_text", {}),
    "kimi_k25": ("deepseek_v3", {}),
    "kimi_k3": ("kimi_k3", {}),
    "kimi_vl": ("deepseek_v3", {}),
    "lfm2-vl": ("lfm2", {}),
    "llama4": (
        "llama4_text",
        {
            "attention_chunk_size": WINDOW, "interleave_moe_layer_step": 2,
            "num_hidden_layers": 4, "num_experts_per_tok": 1,
            "no_rope_layers": [1, 0, 1, 0], **_NO_TYPES,
        },
    ),
    "minimax_m3_vl": (
        "minimax_m3_text",
        {
            "layer_types": ["full_attention", "minimax_m3_sparse"],
            "dense_intermediate_size": 96, "num_hidden_layers": 2, "rotary_dim": 8,
            "index_block_size": 4, "index_topk_blocks": 2, "index_local_blocks": 1,
            "moe_layer_freq": [0, 1],
        },
    ),
    "mistral3": ("ministral3", {}),
    "muse_spark": (
        "muse_spark_text",
        {
            "post_norm_eps": 1e-6, "rope_parameters": _ROPE, "layer_rope_theta": [10000.0, 0.0],
            "final_logit_softcapping": 30.0, "output_multiplier": 1.0, "moe_hidden_size": 48,
            "mlp_layer_types": ["sparse", "sparse"], "num_shared_experts": 0,
        },
    ),
    "pixtral": ("llama", {}),
    "qwen2_vl": ("qwen2", {}),
    "qwen3_5": ("qwen3_5_text", {}),
    "qwen3_5_moe": ("qwen3_5_text", {}),
    "qwen3_vl": ("qwen3", {}),
    "qwen3_vl_moe": ("qwen3_moe", {}),
}  # fmt: skip
"""Modules that contain a text model: its settings, and the differences from `OWN`."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, sliding": (
        "llama",
        {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama, as many kv heads": ("llama", {"num_key_value_heads": HEADS}),
    "llama, biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, rope llama3": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "llama, rope linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "llama, 4 bits": ("llama", {"quantization": {"group_size": 32, "bits": 4}}),
    "mistral": ("llama", {"model_type": "mistral"}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, 8 bits": ("qwen2", {"quantization": {"group_size": 32, "bits": 8}}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3_moe, all experts": ("qwen3_moe", {"num_experts_per_tok": 4}),
    "gemma3_text, one kv head": ("gemma3_text", {"num_key_value_heads": 1}),
    "gemma2, one kv head": ("gemma2", {"num_key_value_heads": 1}),
    "deepseek_v2, whole queries": ("deepseek_v2", {"q_lora_rank": None}),
    "deepseek_v3, groups of experts": ("deepseek_v3", {"n_group": 2, "topk_group": 1}),
    "phi3, tied": ("phi3", {"tie_word_embeddings": True}),
    "cohere2, tied": ("cohere2", {"tie_word_embeddings": True}),
    "olmo2, one kv head": ("olmo2", {"num_key_value_heads": 1}),
    "granite, tied": ("granite", {"tie_word_embeddings": True}),
}
"""Further configurations of a module, by a name for the table."""

UNTESTED = {
    "bitnet": "its layers are a Metal kernel: they need a Mac",
    "muse_spark": "its query norm is a Metal kernel: it needs a Mac",
    "phi3small": "mlx 0.32.4 corrupts memory with it on a CPU, without this server too",
    "olmo": "it exits without the package `ai2-olmo`, which needs an old torch",
    "plamo3": "mlx-lm's own numbers depend on how a prompt past the window is cut, by up to 0.3",
    "prism_hadamard_qwen35": "its weights exist only in a format with a manifest of its own",
}
"""Modules that the sweep cannot judge here, and why."""


def tiny_config(module: str, changed: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Return the `config.json` of a tiny model of `module`."""
    kind, own = TEXT.get(module, (None, {}))
    own = OWN.get(module, {}) | own | dict(changed)
    base = {"model_type": module, "eos_token_id": END}
    if kind is None:
        return base | _without_left_out(SHARED | own)
    text = _without_left_out(SHARED | OWN.get(kind, {}) | own | {"model_type": kind})
    return base | {"vocab_size": VOCABULARY, "text_config": text}


def _without_left_out(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not LEFT_OUT}


def modules() -> list[str]:
    """Return the names of all modules of mlx-lm with a model class."""
    files = sorted((Path(mlx_lm_models.__path__[0])).glob("*.py"))
    return [file.stem for file in files if read_module(file.stem) is not None]


def write_tiny_architecture(
    folder: Path, module: str, changed: Mapping[str, Any] = {}, *, template: str = TEMPLATE
) -> Path:
    """Write the folder of a tiny model with random weights, in float32: a CPU computes experts in
    no other type."""
    config = tiny_config(module, changed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.0}))
    model = random_model(import_module(f"mlx_lm.models.{module}"), config)
    if "quantization" in config:
        nn.quantize(model, **config["quantization"])
    parameters: Any = tree_flatten(model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(parameters))
    write_tokenizer(folder, template)
    return folder


def random_model(code: Any, config: Mapping[str, Any]) -> Any:
    """Return the model of a module of mlx-lm and a `config.json`, the same for the same ones."""
    mx.random.seed(7)
    model = code.Model(code.ModelArgs.from_dict(config))
    model.update(tree_map(_random, model.parameters()))
    return model


def _random(parameter: mx.array) -> mx.array:
    """Return weights that make a model say much: norms and biases are near what they were."""
    if not mx.issubdtype(parameter.dtype, mx.floating):
        return parameter
    noise = mx.random.normal(parameter.shape)
    return noise * 0.15 if parameter.ndim > 1 else parameter + noise * 0.1
