"""Tiny forms of Qwen's, and models with its tokens or its division of images."""

from collections.abc import Callable, Mapping
from typing import Any

from fakes.tiny_vision import QWEN_TOWER
from fakes.vision_families.family import (
    DELTA,
    EXPERTS,
    HALVES,
    LATENT,
    PATCH,
    QWEN_TOKENS,
    SIDE,
    TOWER,
    Family,
    Ids,
    text,
    without,
)

QWEN_PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96},
    **HALVES,
}


def _qwen_ids(ids: Ids) -> dict[str, Any]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _qwen2_vl(ids: Ids) -> dict[str, Any]:
    tower = {"model_type": "qwen2_vl", "depth": 3, "embed_dim": 32, "hidden_size": 32}
    return {
        **text(ids, "qwen2_vl", rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}),
        **_qwen_ids(ids),
        "vision_config": {**tower, "num_heads": 2, "patch_size": PATCH},
    }


def _qwen3_5(kind: str) -> Callable[[Ids], dict[str, Any]]:
    def config(ids: Ids) -> dict[str, Any]:
        rope = {
            "type": "default",
            "mrope_section": [2, 1, 1],
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        }
        own = {"head_dim": 16, "num_hidden_layers": 4, "rope_parameters": rope}
        return {
            "model_type": kind,
            **_qwen_ids(ids),
            "text_config": text(ids, f"{kind}_text", **own, **DELTA, **EXPERTS),
            "vision_config": {"model_type": kind, **QWEN_TOWER, "deepstack_visual_indexes": []},
        }

    return config


def _qwen3_vl_moe(ids: Ids) -> dict[str, Any]:
    mrope = {"type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    own = {"head_dim": 8, "rope_scaling": mrope, **EXPERTS}
    return {
        "model_type": "qwen3_vl_moe",
        **_qwen_ids(ids),
        "text_config": text(ids, "qwen3_vl_moe_text", **own),
        "vision_config": {
            "model_type": "qwen3_vl_moe",
            **QWEN_TOWER,
            "deepstack_visual_indexes": [0, 1],
        },
    }


def _dots_ocr(ids: Ids) -> dict[str, Any]:
    return {
        **text(ids, "dots_ocr"),
        "image_token_id": ids["<|imgpad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "model_type": "dots_vit",
            **TOWER,
            "embed_dim": 32,
            "hidden_size": 32,
        },
    }


def _paddleocr_vl(ids: Ids) -> dict[str, Any]:
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    own = {"head_dim": 8, "rope_scaling": rope, "use_bias": False, "hidden_size": 1024}
    return {
        **text(ids, "paddleocr_vl", **own),
        "image_token_id": ids["<|IMAGE_PLACEHOLDER|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|IMAGE_START|>"],
        "vision_end_token_id": ids["<|IMAGE_END|>"],
        "vision_config": {"model_type": "paddleocr_vl", **TOWER},
    }


def _minicpmv(ids: Ids) -> dict[str, Any]:
    config = _qwen3_5("qwen3_5")(ids)
    return {
        **config["text_config"],
        "model_type": "minicpmv4_6",
        "image_token_id": ids["<|image_pad|>"],
        "text_config": config["text_config"],
        "insert_layer_id": 1,
        "vision_config": {"model_type": "minicpmv4_6_vision", **TOWER},
    }


def _youtu_vl(ids: Ids) -> dict[str, Any]:
    own = without(LATENT, "n_shared_experts", "n_routed_experts", "moe_intermediate_size")
    return {
        **text(ids, "youtu_vl", **own),
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_config": {
            "model_type": "siglip2_vision_model",
            **TOWER,
            "patch_size": 16,
            "num_patches": 64,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 64,
        },
    }


def _mage_vl(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "mage_vl",
        **_qwen_ids(ids),
        "text_config": text(ids, "qwen3", head_dim=8),
        "vision_config": {
            "model_type": "mage_vl_vision",
            **TOWER,
            "num_attention_heads": 1,
            "patch_size": 16,
            "out_hidden_size": 32,
            "text_hidden_size": 32,
        },
    }


def _by_pixels(kind: str, patch: int, *, frames: int) -> dict[str, Any]:
    """Return the settings of a processor that divides images of 4 to 36 patches."""
    return {
        "image_processor_type": kind,
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": frames,
        "min_pixels": (2 * patch) ** 2,
        "max_pixels": (6 * patch) ** 2,
        **HALVES,
    }


def _family(config: Callable[[Ids], dict[str, Any]], preprocessor: Mapping[str, Any]) -> Family:
    """Return a family with the tokens of Qwen."""
    return Family(
        config,
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_TOKENS,
        preprocessor=preprocessor,
    )


QWEN: dict[str, Family] = {
    "qwen2_vl": _family(_qwen2_vl, _by_pixels("Qwen2VLImageProcessor", PATCH, frames=2)),
    "qwen3_5": _family(_qwen3_5("qwen3_5"), QWEN_PREPROCESSOR),
    "qwen3_5_moe": _family(_qwen3_5("qwen3_5_moe"), QWEN_PREPROCESSOR),
    "qwen3_vl_moe": _family(_qwen3_vl_moe, QWEN_PREPROCESSOR),
    "minicpmv4_6": Family(
        _minicpmv,
        "<|image_pad|>",
        (*QWEN_TOKENS, "<image>", "</image>", "<slice>", "</slice>", "<|listen|>", "<unk>"),
        named={"unk_token": "<unk>"},
        preprocessor={
            "image_processor_type": "MiniCPMVImageProcessor",
            "scale_resolution": SIDE * 2,
            "patch_size": PATCH,
            "max_slice_nums": 2,
            "image_feature_size": 4,
        },
    ),
    "dots_ocr": Family(
        _dots_ocr,
        "<|img|><|imgpad|><|endofimg|>",
        ("<|img|>", "<|endofimg|>"),
        fixed={"<|imgpad|>": 151665, "<|video_pad|>": 151656},
        preprocessor=_by_pixels("Qwen2VLImageProcessor", PATCH, frames=1),
    ),
    "paddleocr_vl": Family(
        _paddleocr_vl,
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        ("<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>", "<|video_pad|>"),
        processor={"processor_class": "PaddleOCRVLProcessor"},
        preprocessor=_by_pixels("PaddleOCRVLImageProcessor", PATCH, frames=1),
    ),
    "youtu_vl": Family(
        _youtu_vl,
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_TOKENS,
        processor={"processor_class": "YoutuVLProcessor"},
        preprocessor={
            "image_processor_type": "Siglip2ImageProcessor",
            "patch_size": 16,
            "max_num_patches": 16,
        },
    ),
    "mage_vl": _family(_mage_vl, _by_pixels("Qwen2VLImageProcessor", 16, frames=1)),
}
