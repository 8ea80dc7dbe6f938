# pyright: basic
"""Gemma 2, 3 and 4."""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf import rotary
from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    BLOCK,
    HEAD_NORMS,
    MLP,
    PATTERN,
    Architecture,
    Fields,
    decoder_config,
    of_block,
    require_pattern,
    require_settings,
    require_value,
    required,
    trunk_config,
)

_GLOBAL_EVERY = 6
"""Gemma 3: five layers with sliding window attention, then one with full attention."""


_GEMMA3_27B_BLOCKS = 62


def _gemma3_config(fields: Fields) -> dict[str, Any]:
    config = decoder_config(fields)
    require_value(fields, "final_logit_softcapping", 0)
    heads, blocks = config["num_attention_heads"], config["num_hidden_layers"]
    require_pattern(fields, _GLOBAL_EVERY)
    # The file lacks the scale of attention; llama.cpp derives it from the blocks too.
    scale = config["hidden_size"] // heads if blocks == _GEMMA3_27B_BLOCKS else config["head_dim"]
    return config | {
        "query_pre_attn_scalar": scale,
        "rope_theta": float(fields.get("rope.freq_base", 1_000_000.0)),
        # llama.cpp's converter and Ollama's have different names for it.
        "rope_local_base_freq": float(
            fields.get("rope.freq_base_swa", fields.get("rope.local.freq_base", 10000.0))
        ),
    }


def _gemma3_settings(config: Fields) -> Fields:
    # GGUF has no key for the scale of attention: llama.cpp derives it from the blocks.
    _require_scale(config, int(config["num_hidden_layers"]) == _GEMMA3_27B_BLOCKS, "Gemma 3")
    return {"rope.freq_base_swa": float(required(config, "rope_local_base_freq"))}


_GEMMA2_27B_BLOCKS = 46


def _gemma2_config(fields: Fields) -> dict[str, Any]:
    config = decoder_config(fields)
    window = int(fields.get("attention.sliding_window", 4096))
    per_head = config["hidden_size"] // config["num_attention_heads"]
    is_27b = config["num_hidden_layers"] == _GEMMA2_27B_BLOCKS
    return config | {
        # mlx-lm has no sliding windows in Gemma 2: beyond one the text would be another.
        "max_position_embeddings": min(config["max_position_embeddings"], window),
        "sliding_window": window,
        "query_pre_attn_scalar": per_head if is_27b else config["head_dim"],
        "attn_logit_softcapping": float(fields.get("attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": float(fields.get("final_logit_softcapping", 30.0)),
    }


def _gemma2_settings(config: Fields) -> Fields:
    _require_scale(config, int(config["num_hidden_layers"]) == _GEMMA2_27B_BLOCKS, "Gemma 2")
    return {
        "attention.sliding_window": int(required(config, "sliding_window")),
        "attn_logit_softcapping": float(required(config, "attn_logit_softcapping")),
        "final_logit_softcapping": float(required(config, "final_logit_softcapping")),
    }


def _require_scale(config: Fields, is_27b: bool, model: str) -> None:
    per_head = int(config["hidden_size"]) // int(config["num_attention_heads"])
    scale = per_head if is_27b else int(config.get("head_dim") or per_head)
    if config.get("query_pre_attn_scalar", scale) != scale:
        raise UnsupportedGGUFError(f"'query_pre_attn_scalar' is not that of {model}.")


_GEMMA2_DEFAULTS = {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 144.0,
}
_GEMMA3_DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10000.0,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "max_position_embeddings": 131072,
}


_FOUR_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


_KV_HEADS, _WIDTH = "attention.head_count_kv", "feed_forward_length"
"""Lists where not all blocks have the same."""
_SHARED = "attention.shared_kv_layers"
"""The number of last blocks that have the keys and values of an earlier one."""
_PER_LAYER = "embedding_length_per_layer_input"
_KINDS = ("full_attention", "sliding_attention")


def _is_sliding(fields: Fields, index: int) -> bool:
    return bool(of_block(fields, PATTERN, index))


def _shares(fields: Fields, index: int) -> bool:
    return index >= int(required(fields, "block_count")) - int(fields.get(_SHARED, 0))


def _gemma4_config(fields: Fields) -> dict[str, Any]:
    blocks = range(int(required(fields, "block_count")))
    sliding = [_is_sliding(fields, index) for index in blocks]
    _require_sources(sliding, int(fields.get(_SHARED, 0)))
    widths, size = _of_blocks(fields, _WIDTH), int(required(fields, "attention.key_length_swa"))
    require_value(fields, "attention.value_length_swa", size)
    require_value(fields, "rope.dimension_count_swa", size)
    require_value(fields, "attention.value_length", int(required(fields, "attention.key_length")))
    is_wide = widths[-1] == 2 * widths[0]
    expected = [widths[0] * (1 + (is_wide and _shares(fields, index))) for index in blocks]
    if widths != expected:
        raise UnsupportedGGUFError(f"'{_WIDTH}' = {widths} is not supported.")
    return {
        **trunk_config({**fields, _WIDTH: widths[0]}),
        **_kv_heads(fields, sliding),
        **_expert_config(fields),
        "head_dim": size,
        "global_head_dim": int(fields["attention.key_length"]),
        "num_kv_shared_layers": int(fields.get(_SHARED, 0)),
        "use_double_wide_mlp": is_wide,
        "layer_types": [_KINDS[kind] for kind in sliding],
        "rope_parameters": {
            _KINDS[0]: {"rope_type": "proportional", "rope_theta": _base(fields, "")},
            _KINDS[1]: {"rope_type": "default", "rope_theta": _base(fields, "_swa")},
        },
    }


_EXPERT_COUNTS = {
    "expert_count": "num_experts",
    "expert_used_count": "top_k_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
}


def _expert_config(fields: Fields) -> dict[str, Any]:
    if not _has_experts(fields):
        return {"enable_moe_block": False}
    counts = {setting: int(required(fields, key)) for key, setting in _EXPERT_COUNTS.items()}
    return {"enable_moe_block": True, **counts}


def _expert_settings(config: Fields) -> dict[str, Any]:
    if not config.get("enable_moe_block"):
        return {}
    return {key: int(required(config, setting)) for key, setting in _EXPERT_COUNTS.items()}


def _base(fields: Fields, suffix: str) -> float:
    return float(required(fields, f"rope.freq_base{suffix}"))


def _of_blocks(fields: Fields, key: str) -> list[int]:
    value = required(fields, key)
    return value if isinstance(value, list) else [value] * int(fields["block_count"])


def _require_sources(sliding: list[bool], shared: int) -> None:
    """Reject other blocks with keys for the `shared` ones than the last two with keys of their
    own: llama.cpp takes the last one for full attention, and the one before for windows."""
    own = len(sliding) - shared
    if shared and (own < 2 or sliding[own - 2 : own] != [True, False]):
        raise UnsupportedGGUFError(f"'{_SHARED}' = {shared} is not supported with these windows.")


def _kv_heads(fields: Fields, sliding: list[bool]) -> dict[str, Any]:
    """Numbers of key heads. A file has a list if full attention has another one; then it has no
    values, and its keys are the values too."""
    heads = _of_blocks(fields, _KV_HEADS)
    full = {number for number, kind in zip(heads, sliding, strict=True) if not kind}
    windows = {number for number, kind in zip(heads, sliding, strict=True) if kind}
    if len(full) != 1 or len(windows) != 1:
        raise UnsupportedGGUFError(f"'{_KV_HEADS}' = {heads} is not supported.")
    is_list = isinstance(fields[_KV_HEADS], list)
    own = {"num_global_key_value_heads": full.pop()} if is_list else {}
    return {"num_key_value_heads": windows.pop(), "attention_k_eq_v": is_list, **own}


def _gemma4_table(factors: NDArray[np.float32], config: Fields) -> dict[str, Any]:
    rope = config["rope_parameters"]
    part = {"partial_rotary_factor": rotary.read_proportional_table(factors)}
    return {"rope_parameters": {**rope, _KINDS[0]: {**rope[_KINDS[0]], **part}}}


def _write_gemma4_table(config: Fields, head_dim: int) -> NDArray[np.float32]:
    size = int(required(config, "global_head_dim"))
    part = float(required(config["rope_parameters"][_KINDS[0]], "partial_rotary_factor"))
    return rotary.proportional_table(size // 2, int(size * part / 2))


_GEMMA4_DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "global_head_dim": 512,
    "rms_norm_eps": 1e-6,
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
    "num_kv_shared_layers": 20,
    "hidden_size_per_layer_input": 256,
    "use_double_wide_mlp": True,
    "sliding_window": 512,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": 30.0,
    "rope_parameters": {
        _KINDS[0]: {
            "rope_type": "proportional",
            "rope_theta": 1_000_000.0,
            "partial_rotary_factor": 0.25,
        },
        _KINDS[1]: {"rope_type": "default", "rope_theta": 10000.0},
    },
}
_GEMMA4_GLOBAL_EVERY = 5


def _gemma4_layers(config: Fields) -> list[str]:
    """mlx-lm's kinds of layers for a `config.json` without."""
    every = int(config.get("sliding_window_pattern") or _GEMMA4_GLOBAL_EVERY)
    layers = range(1, int(required(config, "num_hidden_layers")) + 1)
    return [_KINDS[layer % every != 0] for layer in layers]


def _gemma4_normalized(config: Fields) -> Fields:
    """`config` with the heads of full attention."""
    rope = {kind: required(required(config, "rope_parameters"), kind) for kind in _KINDS}
    return {
        **config,
        "rope_parameters": rope,
        "layer_types": config.get("layer_types") or _gemma4_layers(config),
        "head_dim": required(config, "global_head_dim"),
        "sliding_head_dim": required(config, "head_dim"),
        "rope_theta": required(rope[_KINDS[0]], "rope_theta"),
        "hidden_size_per_layer_input": config.get("hidden_size_per_layer_input") or 0,
    }


def _gemma4_settings(config: Fields) -> Fields:
    sliding = [kind == _KINDS[1] for kind in required(config, "layer_types")]
    shared, size = int(required(config, "num_kv_shared_layers")), int(config["sliding_head_dim"])
    _require_sources(sliding, shared)
    rope, rows = config["rope_parameters"], config["vocab_size"]
    required(rope[_KINDS[0]], "rope_type")  # Without, mlx-lm rotates all of a head.
    require_settings(rope[_KINDS[0]], {"rope_type": "proportional", "factor": 1.0})
    require_settings(rope[_KINDS[1]], {"rope_type": "default", "partial_rotary_factor": 1.0})
    if config["hidden_size_per_layer_input"]:
        require_settings(config, {"vocab_size_per_layer_input": rows})
    width, heads = int(config["intermediate_size"]), int(required(config, "num_key_value_heads"))
    is_wide = config.get("use_double_wide_mlp") and shared
    full = int(config.get("num_global_key_value_heads") or heads)
    first = len(sliding) - shared
    return {
        **_expert_settings(config),
        PATTERN: sliding,
        _SHARED: shared,
        "attention.key_length_swa": size,
        "attention.value_length_swa": size,
        "rope.dimension_count_swa": size,
        "rope.freq_base_swa": float(required(rope[_KINDS[1]], "rope_theta")),
        **({_WIDTH: [width * (1 + (i >= first)) for i in range(len(sliding))]} if is_wide else {}),
        **(
            {_KV_HEADS: [heads if kind else full for kind in sliding]}
            if config.get("attention_k_eq_v")
            else {}
        ),
    }


def _gemma4_block(fields: Fields, index: int) -> Mapping[str, str]:
    absent: Set[str] = frozenset()
    if _shares(fields, index):
        absent = _OWN_KEYS
    elif isinstance(fields[_KV_HEADS], list) and not _is_sliding(fields, index):
        absent = {"attn_v"}
    attention = ATTENTION | HEAD_NORMS
    return {
        **{name: module for name, module in attention.items() if name not in absent},
        **(_PER_LAYER_BLOCK if fields.get(_PER_LAYER) else {}),
        **(_GEMMA4_EXPERTS if _has_experts(fields) else {}),
    }


def _gemma4_unused(fields: Fields, index: int) -> Set[str]:
    return _OWN_KEYS if _shares(fields, index) else frozenset()


def _gemma4_outside(fields: Fields) -> Mapping[str, str]:
    return _PER_LAYER_OUTSIDE if fields.get(_PER_LAYER) else {}


_OWN_KEYS = frozenset({"attn_k", "attn_v", "attn_k_norm"})
_PER_LAYER_BLOCK = {
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
_PER_LAYER_OUTSIDE = {
    "per_layer_token_embd": "embed_tokens_per_layer",
    "per_layer_model_proj": "per_layer_model_projection",
    "per_layer_proj_norm": "per_layer_projection_norm",
}
_GEMMA4_EXPERTS = {
    "ffn_gate_inp": "router.proj",
    "ffn_gate_inp.scale": "router.scale",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "ffn_gate_exps": "experts.switch_glu.gate_proj",
    "ffn_up_exps": "experts.switch_glu.up_proj",
    "ffn_down_exps": "experts.switch_glu.down_proj",
    "ffn_down_exps.scale": "router.per_expert_scale",
}
_SCALES = frozenset({"ffn_gate_inp.scale", "ffn_down_exps.scale"})


def _has_experts(fields: Fields) -> bool:
    return bool(fields.get("expert_count"))


ROWS: dict[str, Architecture] = {
    "gemma4": Architecture(
        model_type="gemma4_text",
        hub_class="Gemma4ForCausalLM",
        block=_FOUR_NORMS | MLP | {"layer_output_scale": "layer_scalar"},
        varied=_gemma4_block,
        outside=_gemma4_outside,
        unused=_gemma4_unused,
        bare=frozenset({"layer_output_scale", *_SCALES}),
        suffixes=dict.fromkeys(_SCALES, ""),
        config=_gemma4_config,
        counts={
            "attention.sliding_window": "sliding_window",
            _PER_LAYER: "hidden_size_per_layer_input",
        },
        scales={"final_logit_softcapping": "final_logit_softcapping"},
        other_keys=frozenset(
            {
                *_EXPERT_COUNTS,
                PATTERN,
                _SHARED,
                "attention.key_length_swa",
                "attention.value_length_swa",
                "rope.dimension_count_swa",
                "rope.freq_base_swa",
            }
        ),
        lists=frozenset({PATTERN, _KV_HEADS, _WIDTH}),
        rotated="global_head_dim",
        requires_table=True,
        read_table=_gemma4_table,
        table=_write_gemma4_table,
        scales_rotary=False,
        spaced_vocabulary="gemma4",
        vocabulary_sizes=frozenset({"vocab_size", "vocab_size_per_layer_input"}),
        defaults=_GEMMA4_DEFAULTS,
        normalized=_gemma4_normalized,
        settings=_gemma4_settings,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        hub_class="Gemma3ForCausalLM",
        block=BLOCK | HEAD_NORMS | _FOUR_NORMS,
        config=_gemma3_config,
        counts={"attention.sliding_window": "sliding_window"},
        fixed={"sliding_window_pattern": _GLOBAL_EVERY},
        other_keys=frozenset(
            {PATTERN, "final_logit_softcapping", "rope.freq_base_swa", "rope.local.freq_base"}
        ),
        defaults=_GEMMA3_DEFAULTS,
        settings=_gemma3_settings,
        norm_offset=1.0,
    ),
    "gemma2": Architecture(
        model_type="gemma2",
        hub_class="Gemma2ForCausalLM",
        block=BLOCK | _FOUR_NORMS,
        other_keys=frozenset(
            {"attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"}
        ),
        config=_gemma2_config,
        defaults=_GEMMA2_DEFAULTS,
        settings=_gemma2_settings,
        norm_offset=1.0,
    ),
}
