# pyright: basic
"""OpenAI's gpt-oss."""

from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    PROJECTIONS,
    Architecture,
    Fields,
    decoder_config,
    expert_counts,
    require_settings,
)


def _gpt_oss_settings(config: Fields) -> Fields:
    layers = int(config["num_hidden_layers"])
    pattern = (["sliding_attention", "full_attention"] * layers)[:layers]
    require_settings(config, {"layer_types": pattern})
    return {}


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
        config=decoder_config,
        counts=expert_counts("num_local_experts")
        | {
            "expert_feed_forward_length": "intermediate_size",
            "attention.sliding_window": "sliding_window",
        },
        settings=_gpt_oss_settings,
        biased=PROJECTIONS
        | {"attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"},
        bare=frozenset({"attn_sinks"}),
        requires_output=True,
    ),
}
