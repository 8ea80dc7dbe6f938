"""A family of vision models in a tiny form, and the settings that several families share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fakes.tiny_vision import QWEN_TEMPLATE, Plan, write_planned

Ids = Mapping[str, int]

SIDE, PATCH = 56, 14
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SQUARE = {"height": SIDE, "width": SIDE}
WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "rms_norm_eps": 1e-5}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
TOWER = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
CHATML = ("<|im_start|>", "<|im_end|>")
ENDS = {"eos_token": "<|im_end|>", "pad_token": "<|im_start|>"}
QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "moe_intermediate_size": 48,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}


class Family:
    """The plan of one family, and its configuration by the ids of its tokens."""

    def __init__(
        self,
        config: Callable[[Ids], dict[str, Any]],
        image: str = "<image>",
        tokens: tuple[str, ...] = ("<image>",),
        *,
        named: Mapping[str, str] | None = None,
        processor: Mapping[str, Any] | None = None,
        preprocessor: Mapping[str, Any] | None = None,
        fixed: Mapping[str, int] | None = None,
        template: str | None = None,
    ) -> None:
        """`image`: what the template writes for an image; `template`: another than ChatML's."""
        marks = "<|vision_start|><|image_pad|><|vision_end|>"
        template = template or QWEN_TEMPLATE.replace(marks, image)
        self.plan = Plan(
            (*CHATML, *tokens),
            template,
            {**ENDS, **(named or {})},
            processor or {},
            preprocessor or {},
            fixed=fixed,
        )
        self._config = config

    def write(self, folder: Path) -> Path:
        ids = self.plan.ids
        config = {"eos_token_id": ids["<|im_end|>"], **self._config(ids)}
        return write_planned(folder, self.plan, config)


def text(ids: Ids, kind: str = "llama", **changed: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": max(ids.values()) + 1,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
    }
    return {"model_type": kind, **WIDTHS, **HEADS, **sizes, "tie_word_embeddings": False} | changed


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}
