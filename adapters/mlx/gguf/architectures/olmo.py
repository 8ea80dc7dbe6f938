# pyright: basic
"""OLMo 2 and 3, and OLMoE."""

from typing import Any

from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    BLOCK,
    EXPERTS,
    FFN_NORM,
    HEAD_NORMS,
    PATTERN,
    Architecture,
    Fields,
    decoder_config,
    expert_counts,
    plain_config,
    require_pattern,
    require_settings,
    require_value,
)


def _olmoe_settings(config: Fields) -> Fields:
    # llama.cpp has no groups of queries here.
    require_settings(config, {"num_key_value_heads": config["num_attention_heads"]})
    return {}


_OLMO3_GLOBAL_EVERY = 4


def _has_window(fields: Fields) -> bool:
    return bool(fields.get("attention.sliding_window"))


def _olmo3_config(fields: Fields) -> dict[str, Any]:
    config = decoder_config(fields)
    require_value(fields, "rope.freq_base_swa", config["rope_theta"])
    require_pattern(fields, _OLMO3_GLOBAL_EVERY)
    return config


def _olmo3_layers(layers: int) -> list[str]:
    kinds = ("sliding_attention", "full_attention")
    return [kinds[(index + 1) % _OLMO3_GLOBAL_EVERY == 0] for index in range(layers)]


_OLMO2_BLOCK = (
    {name: module for name, module in BLOCK.items() if not name.endswith("norm")}
    | HEAD_NORMS
    | {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
)


ROWS: dict[str, Architecture] = {
    "olmoe": Architecture(
        model_type="olmoe",
        hub_class="OlmoeForCausalLM",
        block=ATTENTION | HEAD_NORMS | FFN_NORM | EXPERTS,
        config=plain_config,
        counts=expert_counts("num_experts"),
        fixed={"norm_topk_prob": False, "attention_bias": False},
        settings=_olmoe_settings,
        requires_output=True,
    ),
    "olmo3": Architecture(
        family="olmo2",
        applies=_has_window,
        model_type="olmo3",
        hub_class="Olmo3ForCausalLM",
        block=_OLMO2_BLOCK,
        config=_olmo3_config,
        counts={"attention.sliding_window": "sliding_window"},
        fixed={"attention_bias": False},
        other_keys=frozenset({PATTERN, "rope.freq_base_swa"}),
        per_layer={"layer_types": _olmo3_layers},
        requires_output=True,
    ),
    "olmo2": Architecture(
        model_type="olmo2",
        hub_class="Olmo2ForCausalLM",
        block=_OLMO2_BLOCK,
        config=decoder_config,
        requires_output=True,
    ),
}
