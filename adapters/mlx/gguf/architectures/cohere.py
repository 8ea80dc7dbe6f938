# pyright: basic
"""Command R7B and its successors."""

from typing import Any

from adapters.mlx.gguf.architectures.row import (
    ONE_NORM,
    PATTERN,
    UNSCALED,
    Architecture,
    Fields,
    plain_config,
    require_pattern,
    require_settings,
    required,
)

_COHERE_GLOBAL_EVERY = 4


def _cohere2_config(fields: Fields) -> dict[str, Any]:
    require_pattern(fields, _COHERE_GLOBAL_EVERY)
    return plain_config(fields) | {
        "logit_scale": float(required(fields, "logit_scale")),
        "sliding_window": int(required(fields, "attention.sliding_window")),
        "sliding_window_pattern": _COHERE_GLOBAL_EVERY,
    }


def _cohere2_settings(config: Fields) -> Fields:
    require_settings(
        config,
        sliding_window_pattern=_COHERE_GLOBAL_EVERY,
        attention_bias=False,
        layer_norm_bias=False,
    )
    return {
        "logit_scale": float(required(config, "logit_scale")),
        "attention.sliding_window": int(required(config, "sliding_window")),
    }


ROWS: dict[str, Architecture] = {
    "cohere2": Architecture(
        model_type="cohere2",
        hub_class="Cohere2ForCausalLM",
        block=ONE_NORM,
        keys=UNSCALED - {"attention.layer_norm_rms_epsilon"}
        | {
            PATTERN,
            "attention.layer_norm_epsilon",
            "attention.sliding_window",
            "logit_scale",
            "rope.scaling.type",  # Always `none`.
        },
        config=_cohere2_config,
        settings=_cohere2_settings,
        epsilon=("attention.layer_norm_epsilon", "layer_norm_eps"),
    ),
}
