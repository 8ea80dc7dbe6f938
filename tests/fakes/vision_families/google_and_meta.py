"""Tiny forms of Gemma 4 unified, PaliGemma, Llama 3.2 and 4."""

from collections.abc import Callable
from typing import Any

from fakes.vision_families.family import HALVES, SQUARE, TOWER, Family, Ids, text


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


GOOGLE_AND_META: dict[str, Family] = {
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
}
