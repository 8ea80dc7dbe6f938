# pyright: basic
"""Qwen 2 and 3, dense and with experts."""

from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    BLOCK,
    EXPERT_KEYS,
    EXPERTS,
    HEAD_NORMS,
    KEYS,
    Architecture,
    Fields,
    decoder_config,
    expert_keys,
    expert_numbers,
    plain_config,
    required,
)


def _experts(fields: Fields) -> dict[str, Any]:
    return expert_numbers(fields, "num_experts") | {
        "moe_intermediate_size": int(required(fields, "expert_feed_forward_length")),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _experts_settings(config: Fields) -> Fields:
    if config.get("decoder_sparse_step", 1) != 1 or config.get("mlp_only_layers"):
        raise UnsupportedGGUFError("Layers without experts among others are not supported.")
    return expert_keys(config, "num_experts") | {
        "expert_feed_forward_length": int(required(config, "moe_intermediate_size")),
    }


def _qwen3moe_config(fields: Fields) -> dict[str, Any]:
    return decoder_config(fields, experts=True) | _experts(fields) | {"norm_topk_prob": True}


def _qwen3moe_settings(config: Fields) -> Fields:
    if config.get("norm_topk_prob") is not True:
        raise UnsupportedGGUFError("'norm_topk_prob' = false is not supported.")
    return _experts_settings(config)


def _qwen2moe_config(fields: Fields) -> dict[str, Any]:
    shared = int(required(fields, "expert_shared_feed_forward_length"))
    own = {"shared_expert_intermediate_size": shared, "norm_topk_prob": False}
    return plain_config(fields, experts=True) | _experts(fields) | own


def _qwen2moe_settings(config: Fields) -> Fields:
    if config.get("norm_topk_prob"):
        raise UnsupportedGGUFError("'norm_topk_prob' = true is not supported.")
    shared = int(required(config, "shared_expert_intermediate_size"))
    return {**_experts_settings(config), "expert_shared_feed_forward_length": shared}


ROWS: dict[str, Architecture] = {
    "qwen2": Architecture(
        model_type="qwen2",
        hub_class="Qwen2ForCausalLM",
        block=BLOCK,
        keys=KEYS,
        config=plain_config,
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        hub_class="Qwen3ForCausalLM",
        block=BLOCK | HEAD_NORMS,
        keys=KEYS,
        config=decoder_config,
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe",
        hub_class="Qwen3MoeForCausalLM",
        block=ATTENTION | HEAD_NORMS | EXPERTS,
        keys=KEYS | EXPERT_KEYS,
        config=_qwen3moe_config,
        settings=_qwen3moe_settings,
    ),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        hub_class="Qwen2MoeForCausalLM",
        block=ATTENTION
        | EXPERTS
        | {
            "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
            "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
            "ffn_up_shexp": "mlp.shared_expert.up_proj",
            "ffn_down_shexp": "mlp.shared_expert.down_proj",
        },
        keys=KEYS | EXPERT_KEYS | {"expert_shared_feed_forward_length"},
        config=_qwen2moe_config,
        settings=_qwen2moe_settings,
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
        rows_of_one=frozenset({"ffn_gate_inp_shexp"}),
        requires_output=True,
    ),
}
