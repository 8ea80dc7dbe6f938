# pyright: basic
"""Llama, Mistral and Mixtral; close to them Granite, SmolLM3, ERNIE 4.5, Seed-OSS and Phi 3."""

from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    BLOCK,
    KEYS,
    ONE_NORM,
    SPARSE_BLOCK,
    UNSCALED,
    Architecture,
    Fields,
    decoder_config,
    expert_keys,
    expert_numbers,
    plain_config,
    require_settings,
    required,
)


def _has_experts(fields: Fields) -> bool:
    return bool(fields.get("expert_count"))


def _mixtral_config(fields: Fields) -> dict[str, Any]:
    return plain_config(fields, experts=True) | expert_numbers(fields, "num_local_experts")


def _mixtral_settings(config: Fields) -> Fields:
    return expert_keys(config, "num_local_experts")


_GRANITE_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _granite_config(fields: Fields) -> dict[str, Any]:
    scales = {name: float(required(fields, key)) for key, name in _GRANITE_SCALES.items()}
    return decoder_config(fields) | scales | {"attention_bias": False, "mlp_bias": False}


def _granite_settings(config: Fields) -> Fields:
    for name in _GRANITE_SCALES.values():
        if config.get(name) is None:
            raise UnsupportedGGUFError(f"The setting '{name}' is missing.")
    return {key: float(config[name]) for key, name in _GRANITE_SCALES.items()}


def _granitemoe_config(fields: Fields) -> dict[str, Any]:
    scales = {name: float(required(fields, key)) for key, name in _GRANITE_SCALES.items()}
    return _mixtral_config(fields) | scales | {"attention_bias": False}


def _granitemoe_settings(config: Fields) -> Fields:
    return {**_granite_settings(config), **_mixtral_settings(config)}


_NO_ROPE_EVERY = 4
"""SmolLM3: three layers with a rotary embedding, then one without; llama.cpp has no key for it."""


def _smollm3_config(fields: Fields) -> dict[str, Any]:
    config = decoder_config(fields)
    return config | {"no_rope_layers": _no_rope_layers(config["num_hidden_layers"])}


def _smollm3_settings(config: Fields) -> Fields:
    require_settings(
        config,
        no_rope_layers=_no_rope_layers(int(config["num_hidden_layers"])),
        no_rope_layer_interval=_NO_ROPE_EVERY,
        attention_bias=False,
        mlp_bias=False,
    )
    return {}


def _no_rope_layers(layers: int) -> list[int]:
    return [int((index + 1) % _NO_ROPE_EVERY != 0) for index in range(layers)]


def _ernie_config(fields: Fields) -> dict[str, Any]:
    return decoder_config(fields) | {"use_bias": False}


def _ernie_settings(config: Fields) -> Fields:
    require_settings(config, use_bias=False)
    return {}


def _seed_config(fields: Fields) -> dict[str, Any]:
    return decoder_config(fields) | {"attention_bias": True, "attention_out_bias": False}


def _seed_settings(config: Fields) -> Fields:
    require_settings(config, attention_bias=True, attention_out_bias=False, mlp_bias=False)
    return {}


def _phi3_config(fields: Fields) -> dict[str, Any]:
    """Return the settings of a Phi 3; neither engine has its sliding window."""
    config = decoder_config(fields)
    original = fields.get("rope.scaling.original_context_length", fields.get("context_length"))
    return config | {"original_max_position_embeddings": int(original or 0)}


def _phi3_settings(config: Fields) -> Fields:
    if config.get("partial_rotary_factor", 1) != 1:
        raise UnsupportedGGUFError("'partial_rotary_factor' is not supported.")
    return {
        "rope.scaling.original_context_length": int(
            config.get("original_max_position_embeddings") or config["max_position_embeddings"]
        )
    }


ROWS: dict[str, Architecture] = {
    "mixtral": Architecture(
        family="llama",
        applies=_has_experts,
        model_type="mixtral",
        hub_class="MixtralForCausalLM",
        block=ATTENTION | SPARSE_BLOCK,
        keys=UNSCALED | {"expert_used_count"},
        config=_mixtral_config,
        settings=_mixtral_settings,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    # Mistral's models too: llama.cpp's converter gives them this name.
    "llama": Architecture(
        model_type="llama",
        hub_class="LlamaForCausalLM",
        block=BLOCK,
        keys=KEYS,
        config=decoder_config,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "granite": Architecture(
        model_type="granite",
        hub_class="GraniteForCausalLM",
        block=BLOCK,
        keys=KEYS | _GRANITE_SCALES.keys(),
        config=_granite_config,
        settings=_granite_settings,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "granitemoe": Architecture(
        model_type="granitemoe",
        hub_class="GraniteMoeForCausalLM",
        block=ATTENTION | SPARSE_BLOCK | {"ffn_gate_inp": "block_sparse_moe.router.layer"},
        keys=KEYS | _GRANITE_SCALES.keys() | {"expert_used_count"},
        config=_granitemoe_config,
        settings=_granitemoe_settings,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "smollm3": Architecture(
        model_type="smollm3",
        hub_class="SmolLM3ForCausalLM",
        block=BLOCK,
        keys=KEYS,
        config=_smollm3_config,
        settings=_smollm3_settings,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "ernie4_5": Architecture(
        model_type="ernie4_5",
        hub_class="Ernie4_5ForCausalLM",
        block=BLOCK,
        keys=UNSCALED,
        config=_ernie_config,
        settings=_ernie_settings,
    ),
    "seed_oss": Architecture(
        model_type="seed_oss",
        hub_class="SeedOssForCausalLM",
        block=ONE_NORM | {"post_attention_norm": "post_attention_layernorm"},
        keys=KEYS,
        config=_seed_config,
        settings=_seed_settings,
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
    ),
    "phi3": Architecture(
        model_type="phi3",
        hub_class="Phi3ForCausalLM",
        block={
            "attn_norm": "input_layernorm",
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        keys=KEYS | {"attention.sliding_window"},
        config=_phi3_config,
        settings=_phi3_settings,
    ),
}
