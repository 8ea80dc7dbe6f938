# pyright: basic
"""Command R7B and its successors."""

from typing import Any

from adapters.mlx.gguf.architectures.row import (
    ONE_NORM,
    PATTERN,
    Architecture,
    Fields,
    plain_config,
    require_pattern,
)

_COHERE_GLOBAL_EVERY = 4


def _cohere2_config(fields: Fields) -> dict[str, Any]:
    require_pattern(fields, _COHERE_GLOBAL_EVERY)
    return plain_config(fields)


ROWS: dict[str, Architecture] = {
    "cohere2": Architecture(
        model_type="cohere2",
        hub_class="Cohere2ForCausalLM",
        block=ONE_NORM,
        config=_cohere2_config,
        counts={"attention.sliding_window": "sliding_window"},
        scales={"logit_scale": "logit_scale"},
        fixed={
            "sliding_window_pattern": _COHERE_GLOBAL_EVERY,
            "attention_bias": False,
            "layer_norm_bias": False,
        },
        other_keys=frozenset({PATTERN, "rope.scaling.type"}),  # The type is always `none`.
        scales_rotary=False,
        epsilon=("attention.layer_norm_epsilon", "layer_norm_eps"),
    ),
}
