# pyright: basic
"""Llama, Mistral and Mixtral; close to them Granite, SmolLM3, ERNIE 4.5, Seed-OSS and Phi 3."""

from typing import Any

from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    BLOCK,
    ONE_NORM,
    PROJECTIONS,
    ROTATED,
    SPARSE_BLOCK,
    Architecture,
    Fields,
    decoder_config,
    expert_counts,
    plain_config,
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


ROWS: dict[str, Architecture] = {
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
