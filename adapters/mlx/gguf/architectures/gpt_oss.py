# pyright: basic
"""OpenAI's gpt-oss."""

from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    EXPERT_KEYS,
    KEYS,
    Architecture,
    Fields,
    decoder_config,
    expert_keys,
    expert_numbers,
    required,
)


def _gpt_oss_config(fields: Fields) -> dict[str, Any]:
    config = decoder_config(fields, experts=True) | expert_numbers(fields, "num_local_experts")
    return config | {
        "intermediate_size": int(required(fields, "expert_feed_forward_length")),
        "sliding_window": int(required(fields, "attention.sliding_window")),
    }


def _gpt_oss_settings(config: Fields) -> Fields:
    layers = int(config["num_hidden_layers"])
    pattern = (["sliding_attention", "full_attention"] * layers)[:layers]
    if (config.get("layer_types") or pattern) != pattern:
        raise UnsupportedGGUFError("'layer_types' is not that of gpt-oss.")
    return expert_keys(config, "num_local_experts") | {
        "expert_feed_forward_length": int(required(config, "intermediate_size")),
        "attention.sliding_window": int(required(config, "sliding_window")),
    }


ROWS: dict[str, Architecture] = {
    "gpt-oss": Architecture(
        model_type="gpt_oss",
        hub_class="GptOssForCausalLM",
        block=ATTENTION
        | {
            "attn_sinks": "self_attn.sinks",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_gate_inp": "mlp.router",
            "ffn_gate_exps": "mlp.experts.gate_proj",
            "ffn_up_exps": "mlp.experts.up_proj",
            "ffn_down_exps": "mlp.experts.down_proj",
        },
        keys=KEYS | EXPERT_KEYS | {"attention.sliding_window"},
        config=_gpt_oss_config,
        settings=_gpt_oss_settings,
        biased=frozenset(
            {
                *("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp"),
                *("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
            }
        ),
        bare=frozenset({"attn_sinks"}),
        requires_output=True,
    ),
}
