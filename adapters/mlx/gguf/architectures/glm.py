# pyright: basic
"""GLM 4, dense and with experts; 4.7 Flash is with DeepSeek."""

from typing import Any

from adapters.mlx.gguf.architectures import routing
from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    HEAD_NORMS,
    PROJECTIONS,
    Architecture,
    Fields,
    decoder_config,
)


def _moe_config(fields: Fields) -> dict[str, Any]:
    return decoder_config(fields) | routing.group_config(fields)


ROWS: dict[str, Architecture] = {
    "glm4": Architecture(
        model_type="glm4",
        hub_class="Glm4ForCausalLM",
        block={
            "attn_norm": "input_layernorm",
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "post_attention_norm": "post_self_attn_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
            "post_ffw_norm": "post_mlp_layernorm",
        },
        config=decoder_config,
        fixed={"rope_traditional": True, "attention_bias": False},
        partial_rotary=True,
        scales_rotary=False,
        requires_output=True,
    ),
    "glm4moe": Architecture(
        model_type="glm4_moe",
        hub_class="Glm4MoeForCausalLM",
        block=ATTENTION | HEAD_NORMS | {"post_attention_norm": "post_attention_layernorm"},
        varied=routing.biased_experts,
        optional=dict.fromkeys(HEAD_NORMS, "use_qk_norm"),
        config=_moe_config,
        counts=routing.COUNTS,
        scales=routing.SCALE,
        flags=routing.NORM,
        constants=routing.SIGMOID,
        fixed={**routing.BY_BIAS, "attention_bias": True, "rope_scaling": None},
        other_keys=frozenset(routing.GROUPS),
        settings=routing.group_settings,
        biased=PROJECTIONS,
        precise=frozenset({routing.BIAS}),
        partial_rotary=True,
        scales_rotary=False,
        requires_output=True,
    ),
}
