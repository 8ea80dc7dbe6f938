# pyright: basic
"""Qwen 2, 3, 3-Next and 3.5, dense and with experts.

Three of four blocks of Qwen3-Next and 3.5 have a gated delta net in place of attention.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    BLOCK,
    EXPERTS,
    FFN_NORM,
    HEAD_NORMS,
    MLP,
    PROJECTIONS,
    Architecture,
    Fields,
    decoder_config,
    expert_counts,
    plain_config,
    require_settings,
    require_value,
    required,
)
from adapters.mlx.gguf.packing import GROUP

_COUNTS = expert_counts("num_experts") | {"expert_feed_forward_length": "moe_intermediate_size"}


_ALL_SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": []}
"""Every layer has experts."""


_SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_SHARED_COUNTS = {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"}


_TIME_STEP_RANK = "ssm.time_step_rank"
"""Number of value heads of a delta net."""
_SECTIONS = "rope.dimension_sections"
"""Numbers of frequencies for time, height and width, which are the same position in texts."""


def _qwen35_config(fields: Fields) -> dict[str, Any]:
    experts = fields.get("expert_feed_forward_length", 0)
    config = decoder_config({"feed_forward_length": experts, **fields})
    values = int(required(fields, "ssm.time_step_rank")) * int(required(fields, "ssm.state_size"))
    require_value(fields, "ssm.inner_size", values)  # llama.cpp has one size of all heads.
    return config | {
        "linear_value_head_dim": int(fields["ssm.state_size"]),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config["rope_theta"],
            "partial_rotary_factor": required(fields, "rope.dimension_count") / config["head_dim"],
            "mrope_section": required(fields, _SECTIONS)[:3],
        },
    }


def _qwen35_normalized(config: Fields) -> Fields:
    """`config` with the defaults that mlx-lm has for absent settings."""
    rope = config.get("rope_parameters", {})
    if rope is None:  # Then mlx-lm reads them outside.
        rope = config
    return {
        "full_attention_interval": 4,
        "intermediate_size": config.get("moe_intermediate_size"),
        **config,
        "rope_theta": rope.get("rope_theta", 100000.0),
        "partial_rotary_factor": rope.get("partial_rotary_factor", 0.25),
    }


def _qwen35_settings(config: Fields) -> Fields:
    size = int(required(config, "linear_key_head_dim"))
    require_settings(config, {"linear_value_head_dim": size})
    rope = config.get("rope_parameters") or {}
    return {
        "ssm.inner_size": size * int(required(config, "linear_num_value_heads")),
        _SECTIONS: [*(rope.get("mrope_section") or [11, 11, 10]), 0],
    }


def _mixer(fields: Fields, index: int) -> Mapping[str, str]:
    is_linear = (index + 1) % int(required(fields, "full_attention_interval")) != 0
    return _DELTA_NET if is_linear else _QWEN35_ATTENTION


def _value_heads(fields: Fields) -> NDArray[np.intp]:
    """Place of each of MLX's value heads in GGUF.

    Several share a key head. MLX has those of one key head next to each other, GGUF the first of
    every key head, then the second.
    """
    keys, values = int(fields["ssm.group_count"]), int(fields["ssm.time_step_rank"])
    return np.arange(values, dtype=np.intp).reshape(-1, keys).T.reshape(-1)


_OF_VALUES = ("attn_gate", "ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt")
"""Tensors with rows for each value head."""
_OF_QUERIES_TOO = ("attn_qkv", "ssm_conv1d")
"""Tensors with rows for queries and keys before those for values."""


def _qwen35_rows(fields: Fields, source: str, rows: int) -> NDArray[np.intp] | None:
    if source not in (*_OF_VALUES, *_OF_QUERIES_TOO):
        return None
    heads, size = _value_heads(fields), int(fields["ssm.state_size"])
    before = 2 * int(fields["ssm.group_count"]) * size if source in _OF_QUERIES_TOO else 0
    width = (rows - before) // len(heads)
    own = (heads[:, None] * width + np.arange(width)).reshape(-1)
    return np.concatenate([np.arange(before), before + own])


def _qwen35_columns(fields: Fields, source: str) -> NDArray[np.intp] | None:
    if source != "ssm_out":
        return None
    if (size := int(fields["ssm.state_size"])) % GROUP:
        raise UnsupportedGGUFError(f"'ssm.state_size' = {size} is no multiple of {GROUP}.")
    return _value_heads(fields)


_QWEN35_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
}
_QWEN35_ATTENTION = ATTENTION | HEAD_NORMS
_DELTA_NET = {
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_dt": "linear_attn.dt_bias",
    "ssm_a": "linear_attn.A_log",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}

_QWEN35 = Architecture(
    model_type="qwen3_5",
    hub_class="Qwen3_5ForCausalLM",
    block=_QWEN35_NORMS | MLP,
    varied=_mixer,
    prefix="language_model.",
    config=_qwen35_config,
    counts={
        "full_attention_interval": "full_attention_interval",
        "ssm.conv_kernel": "linear_conv_kernel_dim",
        "ssm.group_count": "linear_num_key_heads",
        "ssm.state_size": "linear_key_head_dim",
        "ssm.time_step_rank": "linear_num_value_heads",
    },
    fixed={"attention_bias": False},
    other_keys=frozenset({"ssm.inner_size", _SECTIONS}),
    lists=frozenset({_SECTIONS}),
    normalized=_qwen35_normalized,
    settings=_qwen35_settings,
    suffixes={"ssm_a": "", "ssm_dt": ".bias"},
    bare=frozenset({"ssm_a", "ssm_dt"}),
    added_axes={"ssm_conv1d": 2},
    logarithms=frozenset({"ssm_a"}),
    row_order=_qwen35_rows,
    column_order=_qwen35_columns,
    partial_rotary=True,
    scales_rotary=False,
)


_INTERVAL = "full_attention_interval"
_NEXT_INTERVAL = 4
"""llama.cpp's, where a file has none."""


def _next_config(fields: Fields) -> dict[str, Any]:
    experts = fields.get("expert_feed_forward_length", 0)
    config = decoder_config({"feed_forward_length": experts, **fields})
    size, heads = int(required(fields, "ssm.state_size")), int(required(fields, _TIME_STEP_RANK))
    require_value(fields, "ssm.inner_size", heads * size)  # llama.cpp has one size of all heads.
    interval = int(fields.get(_INTERVAL, _NEXT_INTERVAL))
    return config | {"linear_value_head_dim": size, _INTERVAL: interval}


def _next_settings(config: Fields) -> Fields:
    size, interval = (
        int(required(config, "linear_key_head_dim")),
        config.get(_INTERVAL) or _NEXT_INTERVAL,
    )
    kinds = ("linear_attention", "full_attention")
    layers = range(1, int(config["num_hidden_layers"]) + 1)
    types = [kinds[layer % interval == 0] for layer in layers]
    require_settings(config, {"linear_value_head_dim": size, "layer_types": types})
    return {
        "ssm.inner_size": size * int(required(config, "linear_num_value_heads")),
        _INTERVAL: interval,
    }


def _next_mixer(fields: Fields, index: int) -> Mapping[str, str]:
    interval = int(fields.get(_INTERVAL, _NEXT_INTERVAL))
    return _NEXT_DELTA_NET if (index + 1) % interval else _QWEN35_ATTENTION


def _next_parts(fields: Fields, source: str) -> Mapping[str, NDArray[np.intp]]:
    """The rows of queries, keys and values, and of gates: MLX has all of a key head together."""
    if source != "ssm_in":
        return {}
    heads, size = int(fields["ssm.group_count"]), int(fields["ssm.state_size"])
    values = int(fields[_TIME_STEP_RANK]) // heads * size
    rows = np.arange(heads * 2 * (size + values), dtype=np.intp).reshape(heads, -1)
    queries, keys, own, gates = np.split(rows, [size, 2 * size, 2 * size + values], axis=1)
    mixed = [part.reshape(-1) for part in (queries, keys, own)]
    return {"attn_qkv": np.concatenate(mixed), "attn_gate": gates.reshape(-1)}


_NEXT_DELTA_NET = {
    name: module
    for name, module in _DELTA_NET.items()
    if name not in ("attn_qkv", "attn_gate", "ssm_beta", "ssm_alpha")
} | {"ssm_in": "linear_attn.in_proj_qkvz", "ssm_ba": "linear_attn.in_proj_ba"}


ROWS: dict[str, Architecture] = {
    "qwen2": Architecture(
        model_type="qwen2",
        hub_class="Qwen2ForCausalLM",
        block=BLOCK,
        config=plain_config,
        biased=PROJECTIONS,
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        hub_class="Qwen3ForCausalLM",
        block=BLOCK | HEAD_NORMS,
        config=decoder_config,
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe",
        hub_class="Qwen3MoeForCausalLM",
        block=ATTENTION | HEAD_NORMS | FFN_NORM | EXPERTS,
        config=decoder_config,
        counts=_COUNTS,
        fixed=_ALL_SPARSE | {"norm_topk_prob": True},
    ),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        hub_class="Qwen2MoeForCausalLM",
        block=ATTENTION | FFN_NORM | EXPERTS | _SHARED_EXPERT,
        config=plain_config,
        counts=_COUNTS | _SHARED_COUNTS,
        fixed=_ALL_SPARSE | {"norm_topk_prob": False},
        biased=PROJECTIONS,
        added_axes={"ffn_gate_inp_shexp": 0},
        requires_output=True,
    ),
    "qwen3next": Architecture(
        model_type="qwen3_next",
        hub_class="Qwen3NextForCausalLM",
        block=_QWEN35_NORMS | EXPERTS | _SHARED_EXPERT,
        varied=_next_mixer,
        parts=_next_parts,
        config=_next_config,
        counts={
            **_COUNTS,
            **_SHARED_COUNTS,
            **{key: name for key, name in _QWEN35.counts.items() if key != _INTERVAL},
        },
        fixed={"attention_bias": False, **_ALL_SPARSE, "norm_topk_prob": True},
        other_keys=frozenset({"ssm.inner_size", _INTERVAL}),
        defaults={"norm_topk_prob": False},
        settings=_next_settings,
        suffixes=_QWEN35.suffixes,
        bare=_QWEN35.bare,
        added_axes={**_QWEN35.added_axes, "ffn_gate_inp_shexp": 0},
        logarithms=_QWEN35.logarithms,
        partial_rotary=True,
    ),
    "qwen35": _QWEN35,
    "qwen35moe": replace(
        _QWEN35,
        model_type="qwen3_5_moe",
        hub_class="Qwen3_5MoeForCausalLM",
        block=_QWEN35_NORMS | EXPERTS | _SHARED_EXPERT,
        counts={**_COUNTS, **_SHARED_COUNTS, **_QWEN35.counts},
        fixed={**_QWEN35.fixed, **_ALL_SPARSE, "norm_topk_prob": True},
        added_axes={**_QWEN35.added_axes, "ffn_gate_inp_shexp": 0},
    ),
}
