"""Tiny forms of LLaVA's, and others that put the features of one tower among the words."""

from typing import Any

from fakes.vision_families.family import HALVES, PATCH, SIDE, SQUARE, TOWER, Family, Ids, text

PINPOINTS = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]


def _internvl_chat(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "internvl_chat",
        "image_token_index": ids["<IMG_CONTEXT>"],
        "max_dynamic_patch": 3,
        "text_config": text(ids, "qwen2"),
        "vision_config": {"model_type": "intern_vit_6b", **TOWER},
    }


def _internvl(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "internvl",
        "image_token_id": ids["<IMG_CONTEXT>"],
        "max_dynamic_patch": 3,
        "text_config": text(ids, "qwen3", head_dim=8),
        "vision_config": {"model_type": "internvl_vision", **TOWER},
    }


def _idefics2(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "idefics2",
        "image_token_id": ids["<image>"],
        "text_config": text(ids, "mistral"),
        "vision_config": {"model_type": "idefics2", **TOWER, "num_key_value_heads": 4},
        "perceiver_config": {
            "model_type": "idefics2",
            "num_key_value_heads": 2,
            "resampler_depth": 2,
            "resampler_head_dim": 8,
            "resampler_n_heads": 4,
            "resampler_n_latents": 4,
        },
    }


def _idefics3(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "idefics3",
        "image_token_id": ids["<image>"],
        "scale_factor": 2,
        "text_config": text(ids, "llama"),
        "vision_config": {"model_type": "idefics3", **TOWER},
    }


IDEFICS_TOKENS = (
    "<image>",
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)),
)


def _llava_next(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "llava_next",
        "image_token_index": ids["<image>"],
        "text_config": text(ids, "llama"),
        "vision_config": {"model_type": "clip_vision_model", **TOWER},
    }


def _llava_onevision(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "llava_onevision",
        "image_token_index": ids["<image>"],
        "video_token_index": ids["<video>"],
        "image_grid_pinpoints": PINPOINTS,
        "text_config": text(ids, "qwen2"),
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
    }


def _llava_bunny(ids: Ids) -> dict[str, Any]:
    return {
        **text(ids, "llava-qwen2", tie_word_embeddings=True),
        "auto_map": {},
        "mm_hidden_size": 32,
        "image_token_index": -200,
        "vision_config": {"model_type": "siglip_vision_model", **TOWER, "image_size": 384},
    }


def _aya_vision(ids: Ids) -> dict[str, Any]:
    own = {"head_dim": 8, "sliding_window": 16, "sliding_window_pattern": 2}
    return {
        "model_type": "aya_vision",
        "image_token_index": ids["<|IMG_PATCH|>"],
        "downsample_factor": 2,
        "alignment_intermediate_size": 64,
        "max_splits_per_img": 2,
        "text_config": text(ids, "cohere2", **own),
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
    }


def _granite_vision(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "granite_vision",
        "image_token_index": ids["<image>"],
        "vision_feature_layer": [-3, -1],
        "image_grid_pinpoints": PINPOINTS,
        "text_config": text(ids, "granite"),
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
    }


def _granite4_vision(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "granite4_vision",
        "image_token_index": ids["<image>"],
        "downsample_rate": "2/4",
        "deepstack_layer_map": [[-1, 0]],
        "use_spatial_sampling": False,
        "image_grid_pinpoints": PINPOINTS,
        "text_config": text(ids, "granitemoehybrid"),
        "vision_config": {"model_type": "siglip_vision_model", **TOWER, "hidden_size": 64},
    }


def _llmjpvl(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "llmjpvl",
        "image_token_index": ids["<IMG_CONTEXT>"],
        "max_dynamic_patch": 3,
        "text_config": text(ids, "llama"),
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
    }


LLAVA: dict[str, Family] = {
    "llava_next": Family(
        _llava_next,
        processor={
            "processor_class": "LlavaNextProcessor",
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        preprocessor={
            "image_processor_type": "LlavaNextImageProcessor",
            "size": {"shortest_edge": SIDE},
            "crop_size": SQUARE,
            "image_grid_pinpoints": PINPOINTS,
            **HALVES,
        },
    ),
    "llava_onevision": Family(
        _llava_onevision,
        tokens=("<image>", "<video>"),
        processor={
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": 16,
            "vision_feature_select_strategy": "full",
        },
        preprocessor={
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": SQUARE,
            "image_grid_pinpoints": PINPOINTS,
            **HALVES,
        },
    ),
    "llava_bunny": Family(
        _llava_bunny, tokens=(), preprocessor={"image_processor_type": "SiglipImageProcessor"}
    ),
    "granite_vision": Family(
        _granite_vision,
        processor={
            "processor_class": "LlavaNextProcessor",
            "patch_size": PATCH,
            "vision_feature_select_strategy": "full",
        },
        preprocessor={
            "image_processor_type": "LlavaNextImageProcessor",
            "size": SQUARE,
            "crop_size": SQUARE,
            "image_grid_pinpoints": PINPOINTS,
            **HALVES,
        },
    ),
    "granite4_vision": Family(
        _granite4_vision,
        processor={
            "processor_class": "Granite4VisionProcessor",
            "patch_size": PATCH,
            "vision_feature_select_strategy": "full",
            "downsample_rate": "2/4",
        },
        preprocessor={
            "image_processor_type": "LlavaNextImageProcessor",
            "size": SQUARE,
            "crop_size": SQUARE,
            "image_grid_pinpoints": PINPOINTS,
            **HALVES,
        },
    ),
    "internvl_chat": Family(
        _internvl_chat,
        tokens=("<img>", "</img>", "<IMG_CONTEXT>"),
        preprocessor={"image_processor_type": "CLIPImageProcessor"},
    ),
    "internvl": Family(
        _internvl,
        "<IMG_CONTEXT>",
        tokens=("<img>", "</img>", "<IMG_CONTEXT>"),
        processor={"processor_class": "InternVLProcessor", "image_seq_length": 4},
        preprocessor={"image_processor_type": "GotOcr2ImageProcessorFast"},
    ),
    "llmjpvl": Family(
        _llmjpvl,
        tokens=("<img>", "</img>", "<IMG_CONTEXT>"),
        preprocessor={"image_processor_type": "CLIPImageProcessor"},
    ),
    "aya_vision": Family(
        _aya_vision,
        tokens=(
            "<|START_OF_IMG|>",
            "<|END_OF_IMG|>",
            "<|IMG_PATCH|>",
            "<|IMG_LINE_BREAK|>",
            "TILE_GLOBAL",
            *(f"TILE_{n}" for n in range(1, 13)),
        ),
        processor={
            "processor_class": "AyaVisionProcessor",
            "patch_size": PATCH,
            "img_size": SIDE,
            "downsample_factor": 2,
        },
        preprocessor={
            "image_processor_type": "GotOcr2ImageProcessor",
            "crop_to_patches": True,
            "max_patches": 2,
            "size": SQUARE,
            **HALVES,
        },
    ),
    "idefics2": Family(
        _idefics2,
        tokens=("<image>", "<fake_token_around_image>", "<end_of_utterance>"),
        processor={"processor_class": "Idefics2Processor", "image_seq_len": 4},
        preprocessor={
            "image_processor_type": "Idefics2ImageProcessor",
            "do_image_splitting": False,
            "size": {"shortest_edge": SIDE // 2, "longest_edge": SIDE},
            **HALVES,
        },
    ),
    "idefics3": Family(
        _idefics3,
        tokens=IDEFICS_TOKENS,
        processor={"processor_class": "Idefics3Processor", "image_seq_len": 4},
        preprocessor={
            "image_processor_type": "Idefics3ImageProcessor",
            "do_image_splitting": True,
            "size": {"longest_edge": 2 * SIDE},
            "max_image_size": {"longest_edge": SIDE},
            **HALVES,
        },
    ),
}
