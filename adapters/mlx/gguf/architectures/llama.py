# pyright: basic
"""Llama, Mistral, Mixtral; close to them Granite, SmolLM3, ERNIE 4.5, Seed-OSS and Phi 3."""

from collections.abc import Mapping
from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    BLOCK,
    EXPERTS,
    FFN_NORM,
    MLP,
    ONE_NORM,
    PROJECTIONS,
    ROTATED,
    SPARSE_BLOCK,
    Architecture,
    Fields,
    decoder_config,
    expert_counts,
    owned,
    plain_config,
    require_settings,
    required,
)


def _has_experts(fields: Fields) -> bool:
    return bool(fields.get("expert_count"))


_GRANITE_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


_NO_ROPE_EVERY = 4
"""SmolLM3: three layers with a rotary embedding, then one without; llama.cpp has no key for it."""


def _no_rope_layers(layers: int) -> list[int]:
    return [int((index + 1) % _NO_ROPE_EVERY != 0) for index in range(layers)]


def _phi3_config(fields: Fields) -> dict[str, Any]:
    """Return the settings of a Phi 3; neither engine has its sliding window."""
    config = decoder_config(fields)
    original = fields.get("rope.scaling.original_context_length", fields.get("context_length"))
    return config | {"original_max_position_embeddings": int(original or 0)}


def _phi3_settings(config: Fields) -> Fields:
    return {
        "rope.scaling.original_context_length": int(
            config.get("original_max_position_embeddings") or config["max_position_embeddings"]
        )
    }


_SPARSE_EVERY = "interleave_moe_layer_step"
_EXPERT_WIDTH = "expert_feed_forward_length"
_MAVERICK_EXPERTS = 128
"""Llama 4 has no norm of queries and keys with so many experts; llama.cpp has no key for it."""
_LLAMA4_EXPERTS = owned("feed_forward", {**EXPERTS, "ffn_gate_inp": "mlp.router"})
_LLAMA4_EXPERTS = {
    name: module.replace("switch_mlp", "experts") for name, module in _LLAMA4_EXPERTS.items()
} | {
    "ffn_gate_shexp": "feed_forward.shared_expert.gate_proj",
    "ffn_up_shexp": "feed_forward.shared_expert.up_proj",
    "ffn_down_shexp": "feed_forward.shared_expert.down_proj",
}


def _llama4_block(fields: Fields, index: int) -> Mapping[str, str]:
    is_sparse = (index + 1) % int(required(fields, _SPARSE_EVERY)) == 0
    return _LLAMA4_EXPERTS if is_sparse else owned("feed_forward", MLP)


def _llama4_config(fields: Fields) -> dict[str, Any]:
    config = decoder_config(fields)
    return {
        "rope_scaling": None,
        **config,
        "intermediate_size_mlp": config["intermediate_size"],
        "intermediate_size": int(required(fields, _EXPERT_WIDTH)),
        "use_qk_norm": int(required(fields, "expert_count")) != _MAVERICK_EXPERTS,
    }


def _llama4_normalized(config: Fields) -> Fields:
    """`config` with the width of dense layers where the other architectures have it."""
    return {
        **config,
        "intermediate_size": required(config, "intermediate_size_mlp"),
        "intermediate_size_moe": required(config, "intermediate_size"),
    }


def _llama4_settings(config: Fields) -> Fields:
    experts, layers = int(required(config, "num_local_experts")), int(config["num_hidden_layers"])
    if not config.get("attn_temperature_tuning", True):
        raise UnsupportedGGUFError("A model without 'attn_temperature_tuning' is not supported.")
    if bool(required(config, "use_qk_norm")) != (experts != _MAVERICK_EXPERTS):
        raise UnsupportedGGUFError(f"'use_qk_norm' = {config['use_qk_norm']} is not supported.")
    kinds = ("chunked_attention", "full_attention")
    rotated = _no_rope_layers(layers)
    require_settings(
        config,
        {
            "layer_types": [kinds[not is_rotated] for is_rotated in rotated],
            **({"no_rope_layers": rotated} if config.get("no_rope_layers") else {}),
        },
    )
    return {_EXPERT_WIDTH: int(config["intermediate_size_moe"])}


ROWS: dict[str, Architecture] = {
    "llama4": Architecture(
        model_type="llama4",
        nested="llama4_text",
        hub_class="Llama4ForConditionalGeneration",
        block=ATTENTION | FFN_NORM,
        varied=_llama4_block,
        prefix="language_model.",
        config=_llama4_config,
        counts={"expert_count": "num_local_experts", _SPARSE_EVERY: _SPARSE_EVERY},
        constants={"expert_used_count": 1},
        fixed={
            "num_experts_per_tok": 1,
            "attention_bias": False,
            "attention_chunk_size": 8192,
            "attn_scale": 0.1,
            "floor_scale": 8192,
            "no_rope_layer_interval": _NO_ROPE_EVERY,
        },
        other_keys=frozenset({_EXPERT_WIDTH}),
        normalized=_llama4_normalized,
        settings=_llama4_settings,
        requires_output=True,
    ),
    "mixtral": Architecture(
        family="llama",
        applies=_has_experts,
        model_type="mixtral",
        hub_class="MixtralForCausalLM",
        block=ATTENTION | SPARSE_BLOCK,
        config=plain_config,
        counts=expert_counts("num_local_experts"),
        scales_rotary=False,
        interleaved=ROTATED,
    ),
    # Mistral's models too: llama.cpp's converter gives them this name.
    "llama": Architecture(
        model_type="llama",
        hub_class="LlamaForCausalLM",
        block=BLOCK,
        config=decoder_config,
        interleaved=ROTATED,
    ),
    "granite": Architecture(
        model_type="granite",
        hub_class="GraniteForCausalLM",
        block=BLOCK,
        config=decoder_config,
        scales=_GRANITE_SCALES,
        fixed={"attention_bias": False, "mlp_bias": False},
        interleaved=ROTATED,
    ),
    "granitemoe": Architecture(
        model_type="granitemoe",
        hub_class="GraniteMoeForCausalLM",
        block=ATTENTION | SPARSE_BLOCK | {"ffn_gate_inp": "block_sparse_moe.router.layer"},
        config=plain_config,
        counts=expert_counts("num_local_experts"),
        scales=_GRANITE_SCALES,
        fixed={"attention_bias": False},
        interleaved=ROTATED,
    ),
    "smollm3": Architecture(
        model_type="smollm3",
        hub_class="SmolLM3ForCausalLM",
        block=BLOCK,
        config=decoder_config,
        per_layer={"no_rope_layers": _no_rope_layers},
        fixed={
            "no_rope_layer_interval": _NO_ROPE_EVERY,
            "attention_bias": False,
            "mlp_bias": False,
        },
        interleaved=ROTATED,
    ),
    "ernie4_5": Architecture(
        model_type="ernie4_5",
        hub_class="Ernie4_5ForCausalLM",
        block=BLOCK,
        config=decoder_config,
        fixed={"use_bias": False},
        scales_rotary=False,
    ),
    "seed_oss": Architecture(
        model_type="seed_oss",
        hub_class="SeedOssForCausalLM",
        block=ONE_NORM | {"post_attention_norm": "post_attention_layernorm"},
        config=decoder_config,
        fixed={"attention_bias": True, "attention_out_bias": False, "mlp_bias": False},
        biased=PROJECTIONS,
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
        config=_phi3_config,
        other_keys=frozenset({"attention.sliding_window"}),
        settings=_phi3_settings,
    ),
}
