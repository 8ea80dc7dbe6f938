# pyright: basic
"""Liquid's LFM2: most blocks have a short convolution in place of attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures import routing
from adapters.mlx.gguf.architectures.row import (
    EXPERTS,
    MLP,
    Architecture,
    Fields,
    expert_counts,
    of_block,
    owned,
    plain_config,
    required,
)

_KV_HEADS = "attention.head_count_kv"
"""A value for each block, which is 0 where it has a convolution."""


def _is_convolution(fields: Fields, index: int) -> bool:
    return of_block(fields, _KV_HEADS, index) == 0


def _mixer(fields: Fields, index: int) -> Mapping[str, str]:
    return _CONVOLUTION if _is_convolution(fields, index) else _ATTENTION


def _config(fields: Fields) -> dict[str, Any]:
    heads = required(fields, _KV_HEADS)
    sizes = set(heads) - {0} if isinstance(heads, list) else set()
    if len(sizes) != 1:
        raise UnsupportedGGUFError(f"'{_KV_HEADS}' = {heads} is not supported.")
    kinds = ("full_attention", "conv")
    types = [kinds[_is_convolution(fields, i)] for i in range(len(heads))]
    return plain_config({**fields, _KV_HEADS: sizes.pop()}) | {"layer_types": types}


def _dense_config(fields: Fields) -> dict[str, Any]:
    config = _config(fields)
    return config | {
        "block_dim": config["hidden_size"],
        "block_ff_dim": config["intermediate_size"],
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
    }


def _normalized(config: Fields) -> Fields:
    """`config` with the width that the MLP has after mlx-lm's adjustments."""
    width = config.get("block_ff_dim") or required(config, "intermediate_size")
    if config.get("block_auto_adjust_ff_dim"):
        multiple = int(required(config, "block_multiple_of"))
        scaled = int((config.get("block_ffn_dim_multiplier") or 1) * int(2 * width / 3))
        width = -(-scaled // multiple) * multiple
    return {**config, "intermediate_size": width, "block_auto_adjust_ff_dim": False}


def _settings(config: Fields) -> Fields:
    attention = config.get("full_attn_idxs")
    if attention is None:
        kinds = required(config, "layer_types")
        attention = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    heads = int(required(config, "num_key_value_heads"))
    layers = range(int(required(config, "num_hidden_layers")))
    return {_KV_HEADS: [heads if index in attention else 0 for index in layers]}


_NORMS = {"attn_norm": "operator_norm", "ffn_norm": "ffn_norm"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "attn_output": "self_attn.out_proj",
}
_CONVOLUTION = {
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}


def _moe_block(fields: Fields, index: int) -> Mapping[str, str]:
    layers = _MLP if routing.is_dense(fields, index) else _EXPERTS
    return {**_mixer(fields, index), **layers}


_MLP = owned("feed_forward", MLP)
_EXPERTS = owned("feed_forward", EXPERTS) | {routing.BIAS: "feed_forward.expert_bias"}


_LFM2 = Architecture(
    model_type="lfm2",
    hub_class="Lfm2ForCausalLM",
    block=_NORMS
    | {
        "ffn_gate": "feed_forward.w1",
        "ffn_up": "feed_forward.w3",
        "ffn_down": "feed_forward.w2",
    },
    varied=_mixer,
    final_norm=("token_embd_norm", "model.embedding_norm"),
    epsilon=("attention.layer_norm_rms_epsilon", "norm_eps"),
    config=_dense_config,
    counts={"shortconv.l_cache": "conv_L_cache"},
    fixed={"conv_bias": False, "block_auto_adjust_ff_dim": False},
    lists=frozenset({_KV_HEADS}),
    normalized=_normalized,
    settings=_settings,
    added_axes={"shortconv.conv": 2},
    scales_rotary=False,
    forbids_output=True,
)


ROWS: dict[str, Architecture] = {
    "lfm2": _LFM2,
    "lfm2moe": replace(
        _LFM2,
        model_type="lfm2_moe",
        hub_class="Lfm2MoeForCausalLM",
        block=_NORMS,
        varied=_moe_block,
        config=_config,
        counts={
            **_LFM2.counts,
            **expert_counts("num_experts"),
            "expert_feed_forward_length": "moe_intermediate_size",
            routing.DENSE_LAYERS: "num_dense_layers",
        },
        constants=routing.SIGMOID,
        fixed={
            "conv_bias": False,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
        },
        normalized=lambda config: config,
        precise=frozenset({routing.BIAS}),
    ),
}
