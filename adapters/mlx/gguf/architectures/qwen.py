# pyright: basic
"""Qwen 2 and 3, dense and with experts."""

from adapters.mlx.gguf.architectures.row import (
    ATTENTION,
    BLOCK,
    EXPERTS,
    HEAD_NORMS,
    Architecture,
    decoder_config,
    expert_counts,
    plain_config,
)

_COUNTS = expert_counts("num_experts") | {"expert_feed_forward_length": "moe_intermediate_size"}


_ALL_SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": []}
"""Every layer has experts."""


ROWS: dict[str, Architecture] = {
    "qwen2": Architecture(
        model_type="qwen2",
        hub_class="Qwen2ForCausalLM",
        block=BLOCK,
        config=plain_config,
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        hub_class="Qwen3ForCausalLM",
        block=BLOCK | HEAD_NORMS,
        config=decoder_config,
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe",
        hub_class="Qwen3MoeForCausalLM",
        block=ATTENTION | HEAD_NORMS | EXPERTS,
        config=decoder_config,
        counts=_COUNTS,
        fixed=_ALL_SPARSE | {"norm_topk_prob": True},
    ),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        hub_class="Qwen2MoeForCausalLM",
        block=ATTENTION
        | EXPERTS
        | {
            "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
            "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
            "ffn_up_shexp": "mlp.shared_expert.up_proj",
            "ffn_down_shexp": "mlp.shared_expert.down_proj",
        },
        config=plain_config,
        counts=_COUNTS | {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        fixed=_ALL_SPARSE | {"norm_topk_prob": False},
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
        rows_of_one=frozenset({"ffn_gate_inp_shexp"}),
        requires_output=True,
    ),
}
