# pyright: basic
"""DeepSeek V2 and V3, and GLM 4.7 Flash: keys and values are made of one short vector (MLA).

llama.cpp has two layouts. Files of V2 have the matrix for keys and values as it was trained, which
is what mlx-lm has for V2. Newer ones have its two halves, keys transposed, as mlx-lm has for V3.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf import rotary
from adapters.mlx.gguf.architectures import routing
from adapters.mlx.gguf.architectures.row import (
    FFN_NORM,
    MLP,
    Architecture,
    Fields,
    require_value,
    required,
    trunk_config,
)

_EPSILON = 1e-6
"""mlx-lm has no other one in two norms of V2 and V3."""


_LAYERS_WITHOUT_Q_RANK = (26, 27)
"""llama.cpp requires a rank of queries of models with other numbers of layers."""


_ROPE, _Q_RANK, _KV_RANK = "rope.dimension_count", "attention.q_lora_rank", "attention.kv_lora_rank"
_KEYS, _VALUES = "attention.key_length", "attention.value_length"
_MAGNITUDE = "rope.scaling.yarn_log_multiplier"
"""A tenth of the settings `mscale` and `mscale_all_dim` of YaRN, which have to be equal."""


def _has_epsilon(epsilon: float) -> bool:
    return abs(epsilon / _EPSILON - 1) < 1e-3  # It is a float32 in the file.


def _config(fields: Fields, keys: int, values: int) -> dict[str, Any]:
    """Settings for heads of sizes `keys` and `values`."""
    rotated, trunk = int(required(fields, _ROPE)), trunk_config(fields)
    rank = fields.get(_Q_RANK)
    return {
        **trunk,
        **_scaling_config(fields, trunk),
        "num_key_value_heads": trunk["num_attention_heads"],
        "head_dim": rotated,
        "q_lora_rank": None if rank is None else int(rank),
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": keys - rotated,
        "v_head_dim": values,
    }


def _scaling_config(fields: Fields, trunk: Fields) -> dict[str, Any]:
    scaling = trunk.get("rope_scaling")
    if scaling is None:
        return {}
    _require_yarn(scaling)
    magnitude = round(10 * float(required(fields, _MAGNITUDE)), 6)
    return {"rope_scaling": {**scaling, "mscale": magnitude, "mscale_all_dim": magnitude}}


def _require_yarn(scaling: Fields) -> None:
    if (kind := scaling.get("rope_type")) != "yarn":
        raise UnsupportedGGUFError(f"The rotary scaling '{kind}' is not supported, only 'yarn'.")


def _normalized(config: Fields) -> Fields:
    return {**config, "head_dim": required(config, "qk_rope_head_dim")}


def _settings(config: Fields) -> dict[str, Any]:
    rank, layers = config.get("q_lora_rank"), int(required(config, "num_hidden_layers"))
    if rank is None and layers not in _LAYERS_WITHOUT_Q_RANK:
        raise UnsupportedGGUFError(f"'q_lora_rank' is missing, with {layers} layers.")
    return _scaling_settings(config) | ({} if rank is None else {_Q_RANK: int(rank)})


def _scaling_settings(config: Fields) -> dict[str, Any]:
    scaling = rotary.scaling_of(config)
    if not scaling and not config.get("rope_scaling"):
        return {}
    _require_yarn(scaling)
    magnitude = required(scaling, "mscale_all_dim")
    if scaling.get("mscale") != magnitude:
        raise UnsupportedGGUFError("'mscale' other than 'mscale_all_dim' is not supported.")
    return {_MAGNITUDE: 0.1 * magnitude}


def _head_sizes(config: Fields) -> tuple[int, int]:
    rotated = int(config["qk_rope_head_dim"])
    return int(required(config, "qk_nope_head_dim")) + rotated, int(required(config, "v_head_dim"))


def _v2_config(fields: Fields) -> dict[str, Any]:
    _require_epsilon(float(required(fields, "attention.layer_norm_rms_epsilon")))
    required(fields, "rope.scaling.type")  # mlx-lm has no V2 without YaRN.
    return _config(fields, int(required(fields, _KEYS)), int(required(fields, _VALUES)))


def _v2_settings(config: Fields) -> Fields:
    _require_epsilon(float(required(config, "rms_norm_eps")))
    _require_yarn(rotary.scaling_of(config))  # mlx-lm has no V2 without it.
    keys, values = _head_sizes(config)
    return _settings(config) | {_KEYS: keys, _VALUES: values}


def _require_epsilon(epsilon: float) -> None:
    if not _has_epsilon(epsilon):
        raise UnsupportedGGUFError(f"'rms_norm_eps' = {epsilon:g} is not supported.")


def _v3_config(fields: Fields) -> dict[str, Any]:
    require_value(fields, "attention.head_count_kv", 1)
    rank, rotated = int(required(fields, _KV_RANK)), int(required(fields, _ROPE))
    require_value(fields, _KEYS, rank + rotated)
    require_value(fields, _VALUES, rank)
    keys, values = (int(required(fields, f"{key}_mla")) for key in (_KEYS, _VALUES))
    return _config(fields, keys, values) | routing.group_config(fields)


def _lite_settings(config: Fields) -> Fields:
    keys, values = _head_sizes(config)
    rank = int(required(config, "kv_lora_rank"))
    return {
        **_settings(config),
        **routing.group_settings(config),
        "attention.head_count_kv": 1,
        _KEYS: rank + int(config["qk_rope_head_dim"]),
        _VALUES: rank,
        f"{_KEYS}_mla": keys,
        f"{_VALUES}_mla": values,
    }


def _v3_settings(config: Fields) -> Fields:
    _require_epsilon(float(required(config, "rms_norm_eps")))
    return _lite_settings(config)


def _is_v3(fields: Fields) -> bool:
    return _is_lite(fields) and _has_epsilon(fields.get("attention.layer_norm_rms_epsilon", 1))


def _is_lite(fields: Fields) -> bool:
    return fields.get("expert_gating_func") == routing.SIGMOID["expert_gating_func"]


def _queries(fields: Fields) -> Mapping[str, str]:
    if fields.get(_Q_RANK) is None:
        return {"attn_q": "self_attn.q_proj"}
    return {
        "attn_q_a": "self_attn.q_a_proj",
        "attn_q_a_norm": "self_attn.q_a_layernorm",
        "attn_q_b": "self_attn.q_b_proj",
    }


def _v2_block(fields: Fields, index: int) -> Mapping[str, str]:
    experts = MLP if routing.is_dense(fields, index) else routing.SHARED
    return {**_queries(fields), **experts}


def _v3_block(fields: Fields, index: int) -> Mapping[str, str]:
    return {**_queries(fields), **routing.biased_experts(fields, index)}


_BLOCK = FFN_NORM | {
    "attn_norm": "input_layernorm",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_output": "self_attn.o_proj",
}
_COUNTS = routing.COUNTS | {_KV_RANK: "kv_lora_rank"}
_FIXED = {"moe_layer_freq": 1, "attention_bias": False}
_V2_ROUTING = (
    routing.SOFTMAX | dict.fromkeys(routing.GROUPS, 1) | dict.fromkeys(routing.NORM, False)
)
_SCALING = frozenset({"mscale", "mscale_all_dim"})

_LITE = Architecture(
    family="deepseek2",
    applies=_is_lite,
    model_type="glm4_moe_lite",
    hub_class="Glm4MoeLiteForCausalLM",
    block=_BLOCK | {"attn_k_b": "self_attn.embed_q", "attn_v_b": "self_attn.unembed_out"},
    varied=_v3_block,
    config=_v3_config,
    counts=_COUNTS,
    scales=routing.SCALE,
    flags=routing.NORM,
    constants=routing.SIGMOID,
    fixed=_FIXED | routing.BY_BIAS,
    other_keys=frozenset({_Q_RANK, _MAGNITUDE, f"{_KEYS}_mla", f"{_VALUES}_mla", *routing.GROUPS}),
    precise=frozenset({routing.BIAS}),
    defaults=dict.fromkeys(routing.NORM.values(), True),
    normalized=_normalized,
    settings=_lite_settings,
    scaling_settings=_SCALING,
    requires_output=True,
)


ROWS: dict[str, Architecture] = {
    "deepseek_v3": replace(
        _LITE,
        applies=_is_v3,
        model_type="deepseek_v3",
        hub_class="DeepseekV3ForCausalLM",
        settings=_v3_settings,
    ),
    "glm4_moe_lite": _LITE,
    "deepseek_v2": Architecture(
        family="deepseek2",
        model_type="deepseek_v2",
        hub_class="DeepseekV2ForCausalLM",
        block=_BLOCK | {"attn_kv_b": "self_attn.kv_b_proj"},
        varied=_v2_block,
        config=_v2_config,
        counts=_COUNTS,
        scales=routing.SCALE,
        constants=_V2_ROUTING,
        fixed=_FIXED | {"topk_method": "greedy", "norm_topk_prob": False},
        other_keys=frozenset({_Q_RANK, _MAGNITUDE}),
        normalized=_normalized,
        settings=_v2_settings,
        scaling_settings=_SCALING,
        requires_output=True,
    ),
}
