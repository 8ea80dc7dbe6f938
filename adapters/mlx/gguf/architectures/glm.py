# pyright: basic
"""GLM 4, dense: the models of 9 and 32 billion weights of the year 2025."""

from adapters.mlx.gguf.architectures.row import Architecture, decoder_config

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
}
