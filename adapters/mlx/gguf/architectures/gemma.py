# pyright: basic
"""Gemma 2 and 3."""

from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import (
    BLOCK,
    HEAD_NORMS,
    PATTERN,
    Architecture,
    Fields,
    decoder_config,
    require_pattern,
    require_value,
    required,
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


ROWS: dict[str, Architecture] = {
    "gemma3": Architecture(
        model_type="gemma3_text",
        hub_class="Gemma3ForCausalLM",
        block=BLOCK
        | HEAD_NORMS
        | {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        config=_gemma3_config,
        counts={"attention.sliding_window": "sliding_window"},
        fixed={"sliding_window_pattern": _GLOBAL_EVERY},
        other_keys=frozenset(
            {PATTERN, "final_logit_softcapping", "rope.freq_base_swa", "rope.local.freq_base"}
        ),
        settings=_gemma3_settings,
        norm_offset=1.0,
    ),
    "gemma2": Architecture(
        model_type="gemma2",
        hub_class="Gemma2ForCausalLM",
        block=BLOCK
        | {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        other_keys=frozenset(
            {"attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"}
        ),
        config=_gemma2_config,
        settings=_gemma2_settings,
        norm_offset=1.0,
    ),
}
