# pyright: basic
"""Experts as in DeepSeek: some leading layers are dense, and some experts see every token."""

from collections.abc import Mapping
from typing import Any

from adapters.mlx.gguf.architectures.row import EXPERTS, MLP, Fields, expert_counts, required

SOFTMAX, SIGMOID = {"expert_gating_func": 1}, {"expert_gating_func": 2}
"""The function that turns the output of the router into weights of experts."""


DENSE_LAYERS = "leading_dense_block_count"


SCALE = {"expert_weights_scale": "routed_scaling_factor"}
NORM = {"expert_weights_norm": "norm_topk_prob"}
COUNTS = expert_counts("n_routed_experts") | {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    DENSE_LAYERS: "first_k_dense_replace",
}


GROUPS = {"expert_group_count": "n_group", "expert_group_used_count": "topk_group"}
"""Experts are chosen among those of the best groups; one group if a file lacks the keys."""


BY_BIAS = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
"""The experts are chosen by their weight and a bias."""


SHARED = EXPERTS | {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
BIAS = "exp_probs_b"
BIASED = SHARED | {BIAS: "mlp.gate.e_score_correction_bias"}


def is_dense(fields: Fields, index: int) -> bool:
    return index < int(required(fields, DENSE_LAYERS))


def biased_experts(fields: Fields, index: int) -> Mapping[str, str]:
    return MLP if is_dense(fields, index) else BIASED


def group_config(fields: Fields) -> dict[str, Any]:
    return {setting: int(fields.get(key) or 1) for key, setting in GROUPS.items()}


def group_settings(config: Fields) -> Fields:
    numbers = {key: config.get(setting) for key, setting in GROUPS.items()}
    return {key: 1 if number is None else int(number) for key, number in numbers.items()}
