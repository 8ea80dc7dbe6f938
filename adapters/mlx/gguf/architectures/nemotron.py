# pyright: basic
"""Nemotron H: each block has one part, which is a Mamba 2, attention, an MLP or experts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures import routing
from adapters.mlx.gguf.architectures.row import (
    Architecture,
    Fields,
    decoder_config,
    expert_counts,
    of_block,
    require_settings,
    required,
)

_KV_HEADS, _WIDTH = "attention.head_count_kv", "feed_forward_length"
"""Values for each block: a Mamba has 0 in both, attention in the second."""
_HEADS, _INNER = "ssm.time_step_rank", "ssm.inner_size"
_LATENT = "moe_latent_size"
_EPSILON = "attention.layer_norm_epsilon"
"""Constant in the norm of layers that predict several tokens; llama.cpp requires it of all."""
_PATTERN = "hybrid_override_pattern"
_MAMBA, _ATTENTION, _DENSE, _EXPERTS = "M", "*", "-", "E"
_LETTERS = {
    "mamba": _MAMBA,
    "conv": _MAMBA,
    "linear_attention": _MAMBA,
    "attention": _ATTENTION,
    "full_attention": _ATTENTION,
    "mlp": _DENSE,
    "moe": _EXPERTS,
}


def _has_experts(fields: Fields) -> bool:
    return bool(fields.get("expert_count"))


def _kind(fields: Fields, index: int) -> str:
    if of_block(fields, _WIDTH, index):
        return _EXPERTS if _has_experts(fields) else _DENSE
    return _ATTENTION if of_block(fields, _KV_HEADS, index) else _MAMBA


def _only(fields: Fields, key: str) -> int:
    """The value of all blocks that have one."""
    values = required(fields, key)
    numbers = set(values) - {0} if isinstance(values, list) else set()
    if len(numbers) != 1:
        raise UnsupportedGGUFError(f"'{key}' = {values} is not supported.")
    return int(numbers.pop())


def _config(fields: Fields) -> dict[str, Any]:
    own = {key: _only(fields, key) for key in (_KV_HEADS, _WIDTH)}
    heads = int(required(fields, _HEADS))
    config = decoder_config({**fields, **own})
    blocks = range(config["num_hidden_layers"])
    return config | {
        _PATTERN: "".join(_kind(fields, index) for index in blocks),
        "mamba_num_heads": heads,
        "mamba_head_dim": int(required(fields, _INNER)) // heads,
    }


def _moe_config(fields: Fields) -> dict[str, Any]:
    latent = fields.get(_LATENT)
    config = _config(fields) | routing.group_config(fields)
    return config | ({} if latent is None else {_LATENT: int(latent)})


def _letters(config: Fields) -> str:
    """The kinds of blocks, which a `config.json` has as letters or as words."""
    if pattern := config.get(_PATTERN):
        return "".join(pattern)
    words = config.get("layers_block_type") or required(config, "layer_types")
    return "".join(_LETTERS.get(word, "?") for word in words)


def _normalized(config: Fields) -> Fields:
    return {**config, "num_hidden_layers": len(_letters(config))}


def _settings(config: Fields) -> Fields:
    letters, experts = _letters(config), bool(config.get("n_routed_experts"))
    if extra := set(letters) - {_MAMBA, _ATTENTION, _EXPERTS if experts else _DENSE}:
        raise UnsupportedGGUFError(f"'{_PATTERN}' with '{min(extra)}' is not supported here.")
    limit = config.get("time_step_limit")
    if limit is not None and list(limit) != [0, float("inf")]:
        raise UnsupportedGGUFError(f"'time_step_limit' = {limit} is not supported.")
    size = int(required(config, "mamba_head_dim"))
    heads = int(required(config, "num_key_value_heads"))
    width = int(required(config, "moe_intermediate_size" if experts else "intermediate_size"))
    return {
        _KV_HEADS: [heads * (letter == _ATTENTION) for letter in letters],
        _WIDTH: [width * (letter in (_DENSE, _EXPERTS)) for letter in letters],
        _INNER: size * int(required(config, "mamba_num_heads")),
        _EPSILON: float(config["layer_norm_epsilon"]),
    }


def _moe_settings(config: Fields) -> Fields:
    require_settings(config, dict.fromkeys(routing.GROUPS.values(), 1))
    latent = config.get(_LATENT)
    return {**_settings(config), **({} if latent is None else {_LATENT: int(latent)})}


_MIXERS: dict[str, dict[str, str]] = {
    _MAMBA: {
        "ssm_in": "mixer.in_proj",
        "ssm_conv1d": "mixer.conv1d",
        "ssm_dt": "mixer.dt_bias",
        "ssm_a": "mixer.A_log",
        "ssm_d": "mixer.D",
        "ssm_norm": "mixer.norm",
        "ssm_out": "mixer.out_proj",
    },
    _ATTENTION: {
        "attn_q": "mixer.q_proj",
        "attn_k": "mixer.k_proj",
        "attn_v": "mixer.v_proj",
        "attn_output": "mixer.o_proj",
    },
    _DENSE: {"ffn_up": "mixer.up_proj", "ffn_down": "mixer.down_proj"},
    _EXPERTS: {
        "ffn_gate_inp": "mixer.gate",
        routing.BIAS: "mixer.gate.e_score_correction_bias",
        "ffn_up_exps": "mixer.switch_mlp.fc1",
        "ffn_down_exps": "mixer.switch_mlp.fc2",
        "ffn_up_shexp": "mixer.shared_experts.up_proj",
        "ffn_down_shexp": "mixer.shared_experts.down_proj",
    },
}
_LATENT_EXPERTS = {
    "ffn_latent_down": "mixer.fc1_latent_proj",
    "ffn_latent_up": "mixer.fc2_latent_proj",
}


def _block(fields: Fields, index: int) -> Mapping[str, str]:
    kind = _kind(fields, index)
    is_latent = kind == _EXPERTS and fields.get(_LATENT) is not None
    return _MIXERS[kind] | (_LATENT_EXPERTS if is_latent else {})


def _shape(fields: Fields, source: str) -> tuple[int, ...] | None:
    if source in ("ssm_a", "ssm_d"):
        return int(fields[_HEADS]), 1
    if source == "ssm_norm":
        groups = int(required(fields, "ssm.group_count"))
        return groups, int(fields[_INNER]) // groups
    return None


_NEMOTRON_H = Architecture(
    model_type="nemotron_h",
    hub_class="NemotronHForCausalLM",
    body="backbone",
    embedding="embeddings",
    final_norm=("output_norm", "backbone.norm_f"),
    is_row_of=lambda config: not config.get("n_routed_experts"),
    block={"attn_norm": "norm"},
    varied=_block,
    config=_config,
    counts={
        "ssm.conv_kernel": "conv_kernel",
        "ssm.group_count": "n_groups",
        "ssm.state_size": "ssm_state_size",
        _HEADS: "mamba_num_heads",
    },
    epsilon=("attention.layer_norm_rms_epsilon", "layer_norm_epsilon"),
    fixed={
        "attention_bias": False,
        "mamba_proj_bias": False,
        "mlp_bias": False,
        "use_bias": False,
        "use_conv_bias": True,
    },
    other_keys=frozenset({_INNER, _EPSILON}),
    lists=frozenset({_KV_HEADS, _WIDTH}),
    scales_rotary=False,
    normalized=_normalized,
    settings=_settings,
    biased=frozenset({"ssm_conv1d"}),
    suffixes={"ssm_a": "", "ssm_d": "", "ssm_dt": ".bias"},
    bare=frozenset({"ssm_a", "ssm_d", "ssm_dt"}),
    added_axes={"ssm_conv1d": 2},
    logarithms=frozenset({"ssm_a"}),
    shape=_shape,
    requires_output=True,
)


ROWS: dict[str, Architecture] = {
    "nemotron_h": _NEMOTRON_H,
    "nemotron_h_moe": replace(
        _NEMOTRON_H,
        is_row_of=lambda config: bool(config.get("n_routed_experts")),
        config=_moe_config,
        counts={
            **_NEMOTRON_H.counts,
            **expert_counts("n_routed_experts"),
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_shared_count": "n_shared_experts",
            "expert_shared_feed_forward_length": "moe_shared_expert_intermediate_size",
        },
        scales=routing.SCALE,
        flags=routing.NORM,
        constants=routing.SIGMOID,
        other_keys=_NEMOTRON_H.other_keys | {_LATENT, *routing.GROUPS},
        settings=_moe_settings,
        precise=frozenset({routing.BIAS}),
    ),
}
