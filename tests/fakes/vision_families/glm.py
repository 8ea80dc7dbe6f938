"""Tiny forms of GLM's."""

from collections.abc import Callable
from typing import Any

from fakes.vision_families.family import EXPERTS, HALVES, PATCH, SIDE, Family, Ids, text, without


def _glm4v(ids: Ids) -> dict[str, Any]:
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    return {
        "model_type": "glm4v",
        **_glm_ids(ids),
        "text_config": text(ids, "glm4v_text", partial_rotary_factor=1.0, rope_scaling=rope),
        "vision_config": {"model_type": "glm4v", **_GLM_TOWER},
    }


def _glm4v_moe(ids: Ids) -> dict[str, Any]:
    own = {
        **EXPERTS,
        "head_dim": 8,
        "norm_topk_prob": True,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "routed_scaling_factor": 1.5,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
        "attention_bias": False,
        "partial_rotary_factor": 1.0,
        "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]},
    }
    return {
        "model_type": "glm4v_moe",
        **_glm_ids(ids),
        "text_config": text(ids, "glm4v_moe_text", **own),
        "vision_config": {"model_type": "glm4v_moe", **_GLM_TOWER},
    }


def _glm_ocr(ids: Ids) -> dict[str, Any]:
    rope = {
        "rope_type": "default",
        "mrope_section": [1, 1, 2],
        "partial_rotary_factor": 1.0,
        "rope_theta": 10000,
    }
    return {
        "model_type": "glm_ocr",
        **_glm_ids(ids),
        "image_start_token_id": ids["<|begin_of_image|>"],
        "image_end_token_id": ids["<|end_of_image|>"],
        "text_config": without(
            text(ids, "glm_ocr_text", head_dim=8, rope_parameters=rope), "rope_theta"
        ),
        "vision_config": {"model_type": "glm_ocr_vision", **_GLM_TOWER},
    }


_GLM_TOWER = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": PATCH,
    "image_size": SIDE,
    "out_hidden_size": 32,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
GLM_TOKENS = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>")
GLM_PREPROCESSOR = {
    "patch_size": PATCH,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 84 * 84},
    **HALVES,
}


def _glm_ids(ids: Ids) -> dict[str, Any]:
    return {
        "image_token_id": ids["<|image|>"],
        "image_token_index": ids["<|image|>"],
        "video_token_id": ids["<|video|>"],
        "video_token_index": ids["<|video|>"],
        "vision_start_token_id": ids["<|begin_of_image|>"],
        "vision_end_token_id": ids["<|end_of_image|>"],
    }


def _family(
    config: Callable[[Ids], dict[str, Any]], processor: str, image_processor: str
) -> Family:
    return Family(
        config,
        "<|begin_of_image|><|image|><|end_of_image|>",
        GLM_TOKENS,
        processor={"processor_class": processor},
        preprocessor=GLM_PREPROCESSOR | {"image_processor_type": image_processor},
    )


GLM: dict[str, Family] = {
    "glm4v": _family(_glm4v, "Glm4vProcessor", "Glm4vImageProcessor"),
    "glm4v_moe": _family(_glm4v_moe, "Glm4vProcessor", "Glm4vImageProcessor"),
    "glm_ocr": _family(_glm_ocr, "Glm46VProcessor", "Glm46VImageProcessor"),
}
