"""Tiny vision models of the families of mlx-vlm that `tiny_vision` has not, for the sweep.

Each has mlx-vlm's own class and processor, and a template of ChatML with the family's placeholder.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fakes.tiny_vision import (
    FAMILIES,
    QWEN_TEMPLATE,
    QWEN_TOWER,
    Plan,
    write_planned,
    write_tiny_vision,
)
from mlx_vlm import models

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
QWEN_PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96},
    **HALVES,
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
    ) -> None:
        """`image`: what the template writes for an image."""
        template = QWEN_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", image)
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


def _without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


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


def _pixtral(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "pixtral",
        "image_token_index": ids["[IMG]"],
        "text_config": text(ids, "mistral", head_dim=8),
        "vision_config": {"model_type": "pixtral", **TOWER, "head_dim": 8, "image_size": 2 * SIDE},
    }


def _mistral3(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "mistral3",
        "image_token_index": ids["[IMG]"],
        "spatial_merge_size": 2,
        "text_config": text(ids, "mistral", head_dim=8),
        "vision_config": {"model_type": "pixtral", **TOWER, "head_dim": 8, "image_size": 2 * SIDE},
    }


def _ministral3(ids: Ids) -> dict[str, Any]:
    rope = {
        "rope_theta": 10000.0,
        "rope_type": "yarn",
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    config = _mistral3(ids)
    return {**config, "text_config": text(ids, "ministral3", head_dim=8, rope_parameters=rope)}


PIXTRAL_PREPROCESSOR = {
    "image_processor_type": "PixtralImageProcessor",
    "patch_size": {"height": PATCH, "width": PATCH},
    "size": {"longest_edge": SIDE * 2},
    **HALVES,
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
        "image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
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


def _gemma4_unified(ids: Ids) -> dict[str, Any]:
    own = {
        "head_dim": 8,
        "global_head_dim": 8,
        "num_hidden_layers": 4,
        "num_global_key_value_heads": 1,
        "sliding_window": 16,
        "sliding_window_pattern": 2,
        "vocab_size_per_layer_input": 256 + len(ids),
        "pad_token_id": ids["<pad>"],
    }
    return {
        "model_type": "gemma4_unified",
        "image_token_id": ids["<|image|>"],
        "audio_token_id": ids["<|audio|>"],
        "video_token_id": ids["<|video|>"],
        "boi_token_id": ids["<|image>"],
        "eoi_token_id": ids["<image|>"],
        "pad_token_id": ids["<pad>"],
        "hidden_size": 32,
        "vision_soft_tokens_per_image": 280,
        "audio_config": None,
        "tie_word_embeddings": False,
        "text_config": text(ids, "gemma4_unified_text", **own),
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            # Its image processor takes no settings.
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "model_patch_size": 48,
            "mm_embed_dim": 32,
            "mm_posemb_size": 1120,
            "num_soft_tokens": 280,
            "output_proj_dims": 32,
        },
    }


def _llama4(ids: Ids) -> dict[str, Any]:
    own = {
        "head_dim": 8,
        "num_hidden_layers": 4,
        "intermediate_size_mlp": 64,
        "num_local_experts": 4,
        "attention_chunk_size": 512,
        "interleave_moe_layer_step": 2,
    }
    return {
        "model_type": "llama4",
        "image_token_index": ids["<|patch|>"],
        "image_token_id": ids["<|patch|>"],
        "text_config": text(ids, "llama4_text", **own),
        "vision_config": {
            "model_type": "llama4_vision_model",
            **TOWER,
            "intermediate_size": 128,
            "initializer_range": 0.02,
            "norm_eps": 1e-5,
            "num_channels": 3,
            "pixel_shuffle_ratio": 0.5,
            "projector_dropout": 0.0,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "rope_theta": 10000.0,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "vision_output_dim": 32,
        },
    }


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
        "text_config": _without(
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
    "image_processor_type": "Glm4vImageProcessor",
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


def _kimi(kind: str) -> Callable[[Ids], dict[str, Any]]:
    def config(ids: Ids) -> dict[str, Any]:
        return {
            "model_type": kind,
            "media_placeholder_token_id": ids["<|media_pad|>"],
            "text_config": text(ids, "deepseek_v3", **LATENT),
            "vision_config": {
                "model_type": "moonvit",
                "depth": 3,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 64,
                "patch_size": PATCH,
                "init_pos_emb_height": 8,
                "init_pos_emb_width": 8,
            },
        }

    return config


def _lfm2_vl(ids: Ids) -> dict[str, Any]:
    own = {
        "num_hidden_layers": 4,
        "block_dim": 32,
        "conv_dim": 32,
        "conv_dim_out": 32,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention"] * 2,
        "tie_word_embeddings": True,
    }
    return {
        "model_type": "lfm2-vl",
        "image_token_id": ids["<image>"],
        "downsample_factor": 2,
        "encoder_patch_size": 16,
        "max_image_tokens": 16,
        "min_image_tokens": 4,
        "max_num_patches": 64,
        "tile_size": 64,
        "do_image_splitting": False,
        "projector_hidden_size": 32,
        "text_config": text(ids, "lfm2", **own),
        "vision_config": {
            "model_type": "siglip2_vision_model",
            **TOWER,
            "patch_size": 16,
            "num_patches": 64,
        },
    }


def _paligemma(kind: str) -> Callable[[Ids], dict[str, Any]]:
    def config(ids: Ids) -> dict[str, Any]:
        own = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4096}
        capped = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
        return {
            "model_type": "paligemma",
            "image_token_index": ids["<image>"],
            "hidden_size": 32,
            "projection_dim": 32,
            "pad_token_id": ids["<pad>"],
            "text_config": text(ids, kind, **own, **(capped if kind == "gemma2" else {})),
            "vision_config": {"model_type": "siglip_vision_model", **TOWER, "projection_dim": 32},
        }

    return config


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
        "image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
        "text_config": text(ids, "granite"),
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
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


def _mllama(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "mllama",
        "image_token_index": ids["<|image|>"],
        "text_config": text(
            ids,
            "mllama_text_model",
            num_hidden_layers=4,
            cross_attention_layers=[1, 3],
            vocab_size=256 + len(ids) - 8,
        ),
        "vision_config": {
            **TOWER,
            "model_type": "mllama_vision_model",
            "num_global_layers": 1,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 96,
        },
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


def _phi4_siglip(ids: Ids) -> dict[str, Any]:
    return {
        "eos_token_id": ids["<|im_end|>"],
        "model_type": "phi4-siglip",
        "mm_hidden_size": 32,
        "mm_vision_tower": "siglip2-naflex",
        "min_num_patches": 4,
        "max_num_patches": 16,
        "text_config": _without(
            text(ids, "phi4-siglip"), "max_position_embeddings", "tie_word_embeddings"
        ),
        "vision_config": {
            "model_type": "siglip2_vision_model",
            **TOWER,
            "patch_size": 16,
            "num_patches": 64,
        },
    }


def _molmo2(ids: Ids) -> dict[str, Any]:
    own = {"head_dim": 8, "additional_vocab_size": 8, "layer_norm_eps": 1e-5}
    return {
        "model_type": "molmo2",
        "image_start_token_id": ids["<im_start>"],
        "image_end_token_id": ids["<im_end>"],
        "image_patch_id": ids["<im_patch>"],
        "image_col_id": ids["<im_col>"],
        "low_res_image_start_token_id": ids["<low_res_im_start>"],
        "image_low_res_id": ids["<im_low>"],
        "text_config": text(ids, "molmo2", **own),
        "vision_config": {
            "vit_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "head_dim": 8,
                "image_patch_size": PATCH,
                "image_num_pos": 729,
                "image_default_input_size": [378, 378],
            },
            "adapter_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "text_hidden_size": 32,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "head_dim": 8,
                "vit_layers": [-1, -2],
            },
        },
    }


def _youtu_vl(ids: Ids) -> dict[str, Any]:
    own = _without(LATENT, "n_shared_experts", "n_routed_experts", "moe_intermediate_size")
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


def _granite4_vision(ids: Ids) -> dict[str, Any]:
    return {
        "model_type": "granite4_vision",
        "image_token_index": ids["<image>"],
        "downsample_rate": "2/4",
        "deepstack_layer_map": [[-1, 0]],
        "use_spatial_sampling": False,
        "image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
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


OWN: dict[str, Family] = {
    "qwen2_vl": Family(
        _qwen2_vl,
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_TOKENS,
        preprocessor={
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": PATCH,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "min_pixels": 28 * 28,
            "max_pixels": 84 * 84,
            **HALVES,
        },
    ),
    "qwen3_5": Family(
        _qwen3_5("qwen3_5"),
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_TOKENS,
        preprocessor=QWEN_PREPROCESSOR,
    ),
    "qwen3_5_moe": Family(
        _qwen3_5("qwen3_5_moe"),
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_TOKENS,
        preprocessor=QWEN_PREPROCESSOR,
    ),
    "qwen3_vl_moe": Family(
        _qwen3_vl_moe,
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_TOKENS,
        preprocessor=QWEN_PREPROCESSOR,
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
    "pixtral": Family(
        _pixtral,
        "[IMG]",
        ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        processor={"processor_class": "PixtralProcessor", "patch_size": PATCH},
        preprocessor=PIXTRAL_PREPROCESSOR,
    ),
    "mistral3": Family(
        _mistral3,
        "[IMG]",
        ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        processor={"processor_class": "PixtralProcessor", "patch_size": PATCH},
        preprocessor=PIXTRAL_PREPROCESSOR,
    ),
    "mistral3, ministral3": Family(
        _ministral3,
        "[IMG]",
        ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        processor={"processor_class": "PixtralProcessor", "patch_size": PATCH},
        preprocessor=PIXTRAL_PREPROCESSOR,
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
            "image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
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
            "image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
            **HALVES,
        },
    ),
    "llava_bunny": Family(
        _llava_bunny, tokens=(), preprocessor={"image_processor_type": "SiglipImageProcessor"}
    ),
    "gemma4_unified": Family(
        _gemma4_unified,
        "<|image|>",
        ("<|image|>", "<|image>", "<image|>", "<|audio|>", "<|video|>", "<pad>"),
        named={
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
        },
        processor={
            "processor_class": "Gemma4UnifiedProcessor",
            "image_processor": {
                "patch_size": 16,
                "model_patch_size": 32,
                "max_soft_tokens": 6,
                "pooling_kernel_size": 2,
            },
        },
    ),
    "llama4": Family(
        _llama4,
        "<|image|>",
        (
            "<|image|>",
            "<|patch|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
        ),
        processor={"processor_class": "Llama4Processor"},
        preprocessor={
            "image_processor_type": "Llama4ImageProcessorFast",
            "size": SQUARE,
            "max_patches": 4,
            **HALVES,
        },
    ),
    "glm4v": Family(
        _glm4v,
        "<|begin_of_image|><|image|><|end_of_image|>",
        GLM_TOKENS,
        processor={"processor_class": "Glm4vProcessor"},
        preprocessor=GLM_PREPROCESSOR,
    ),
    "glm4v_moe": Family(
        _glm4v_moe,
        "<|begin_of_image|><|image|><|end_of_image|>",
        GLM_TOKENS,
        processor={"processor_class": "Glm4vProcessor"},
        preprocessor=GLM_PREPROCESSOR,
    ),
    "glm_ocr": Family(
        _glm_ocr,
        "<|begin_of_image|><|image|><|end_of_image|>",
        GLM_TOKENS,
        processor={"processor_class": "Glm46VProcessor"},
        preprocessor=GLM_PREPROCESSOR | {"image_processor_type": "Glm46VImageProcessor"},
    ),
    "kimi_vl": Family(
        _kimi("kimi_vl"),
        "<|media_start|>image<|media_content|><|media_pad|><|media_end|>",
        (
            "<|media_start|>",
            "<|media_content|>",
            "<|media_pad|>",
            "<|media_end|>",
            "<|im_assistant|>",
        ),
        processor={"processor_class": "KimiVLProcessor"},
        preprocessor={"image_processor_type": "KimiVLImageProcessor"},
    ),
    "kimi_k25": Family(
        _kimi("kimi_k25"),
        "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
        ("<|media_begin|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>"),
        preprocessor={"media_proc_cfg": {"patch_size": PATCH, "in_patch_limit": 64}},
    ),
    "lfm2_vl": Family(
        _lfm2_vl,
        tokens=("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
        named={
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail": "<|img_thumbnail|>",
        },
        processor={"processor_class": "Lfm2VlProcessor"},
        preprocessor={
            "image_processor_type": "Lfm2VlImageProcessorFast",
            "downsample_factor": 2,
            "encoder_patch_size": 16,
            "min_image_tokens": 4,
            "max_image_tokens": 16,
            "tile_size": 64,
            "do_image_splitting": False,
            **HALVES,
        },
    ),
    **{
        name: Family(
            _paligemma(text),
            tokens=("<image>", "<bos>", "<pad>"),
            named={"bos_token": "<bos>", "pad_token": "<pad>"},
            processor={"processor_class": "PaliGemmaProcessor", "image_seq_length": 16},
            preprocessor={
                "image_processor_type": "SiglipImageProcessor",
                "image_seq_length": 16,
                "size": SQUARE,
                **HALVES,
            },
        )
        for name, text in (("paligemma", "gemma"), ("paligemma, gemma2", "gemma2"))
    },
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
            "image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
            **HALVES,
        },
    ),
    "dots_ocr": Family(
        _dots_ocr,
        "<|img|><|imgpad|><|endofimg|>",
        ("<|img|>", "<|endofimg|>"),
        fixed={"<|imgpad|>": 151665, "<|video_pad|>": 151656},
        preprocessor={
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": PATCH,
            "merge_size": 2,
            "temporal_patch_size": 1,
            "min_pixels": 28 * 28,
            "max_pixels": 84 * 84,
            **HALVES,
        },
    ),
    "paddleocr_vl": Family(
        _paddleocr_vl,
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        ("<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>", "<|video_pad|>"),
        processor={"processor_class": "PaddleOCRVLProcessor"},
        preprocessor={
            "image_processor_type": "PaddleOCRVLImageProcessor",
            "patch_size": PATCH,
            "merge_size": 2,
            "temporal_patch_size": 1,
            "min_pixels": 28 * 28,
            "max_pixels": 84 * 84,
            **HALVES,
        },
    ),
    "mllama": Family(
        _mllama,
        "<|image|>",
        (*(f"<|extra_{n}|>" for n in range(9)), "<bos>", "<|python_tag|>", "<|image|>"),
        named={"bos_token": "<bos>"},
        processor={"processor_class": "MllamaProcessor"},
        preprocessor={
            "image_processor_type": "MllamaImageProcessor",
            "size": SQUARE,
            "max_image_tiles": 4,
            **HALVES,
        },
    ),
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
    "phi4_siglip": Family(_phi4_siglip, tokens=("<bos>",)),
    "molmo2": Family(
        _molmo2,
        "<|image|>",
        (
            "<|image|>",
            "<im_patch>",
            "<im_col>",
            "<im_start>",
            "<im_end>",
            "<low_res_im_start>",
            "<im_low>",
            "<|video|>",
        ),
        preprocessor={
            "image_processor_type": "Molmo2ImageProcessor",
            "max_crops": 1,
            "overlap_margins": [4, 4],
            "size": {"height": 378, "width": 378},
            "patch_size": PATCH,
            "pooling_size": [2, 2],
        },
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
    "mage_vl": Family(
        _mage_vl,
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_TOKENS,
        preprocessor={
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": 16,
            "merge_size": 2,
            "temporal_patch_size": 1,
            "min_pixels": 32 * 32,
            "max_pixels": 96 * 96,
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
            "image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
            **HALVES,
        },
    ),
    "llmjpvl": Family(
        _llmjpvl,
        tokens=("<img>", "</img>", "<IMG_CONTEXT>"),
        preprocessor={"image_processor_type": "CLIPImageProcessor"},
    ),
}


UNTESTED: dict[str, str] = {
    name: reason
    for reason, names in (
        (
            "finds, divides, embeds or draws images, and does not chat",
            "clef colidefics3 colqwen2_5 d1 d1_omni embedding_gemma2 indic_ocr "
            "llama_nemotron_vl_embedding moss_image pp_doclayout_v3 qwen3_vl_embedding rfdetr "
            "rt_detr_v2 sam3 sam3_1 sam3d_body sam3d_objects siglip video_depth_anything",
        ),
        (
            "is refused: answers depend on states beside the caches of the layers, or are not "
            "written token by token",
            "diffusion_gemma falcon_ocr falcon_perception florence2 nemotron_parse",
        ),
        (
            "takes no images here, because mlx-vlm reads its own embeddings of a text as another "
            "text; its texts differ by 4e-3 from those of mlx-vlm's language model, and why is not "
            "known",
            "gemma3n",
        ),
        ("has an encoder of one size, which takes minutes on a CPU", "fastvlm phi3_v"),
        (
            "has a processor with its tokens or sizes in the code",
            "deepseek_vl_v2 deepseekocr deepseekocr_2 hunyuan_vl molmo unlimited_ocr",
        ),
        (
            "has no small configuration here yet",
            "cohere_compass deepseek_v41 ernie4_5_moe_vl glm5_next got inkling jina_vlm kimi_k3 "
            "locateanything mimo_v2 minicpmo minicpmv4_7 minimax_m3_vl mistral_large3 molmo_point "
            "moondream2 moondream3 multi_modality muse_glimmer muse_spark nemotron_h_nano_omni "
            "phi4mm plamo2vl prism_hadamard_qwen35 qwen3_5_text qwen3_omni_moe qwen4_exp step3p7 "
            "zaya1_vl",
        ),
    )
    for name in names.split()
}
"""Vision models of mlx-vlm without a tiny form here, and why."""


def modules() -> set[str]:
    """Return the models of the installed mlx-vlm with an encoder of images in their code."""
    root = Path(models.__file__ or "").parent
    return {
        folder.name
        for folder in root.iterdir()
        if (folder / "__init__.py").is_file()
        and any(
            name in file.read_text("utf-8")
            for file in folder.glob("*.py")
            for name in ("vision_config", "VisionConfig")
        )
    }


def families() -> list[str]:
    """Return the names of all families that can be built here."""
    return [*FAMILIES, *OWN]


def write_family(folder: Path, name: str) -> Path:
    for family in FAMILIES:
        if family == name:
            return write_tiny_vision(folder, family)
    return OWN[name].write(folder)
