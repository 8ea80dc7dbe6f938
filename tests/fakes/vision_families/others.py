"""Tiny forms of Kimi, LFM2, Phi 4, Molmo, Molmo 2, FastVLM and Hunyuan."""

from collections.abc import Callable
from typing import Any

from fakes.vision_families.family import HALVES, LATENT, PATCH, TOWER, Family, Ids, text, without


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


def _phi4_siglip(ids: Ids) -> dict[str, Any]:
    return {
        "eos_token_id": ids["<|im_end|>"],
        "model_type": "phi4-siglip",
        "mm_hidden_size": 32,
        "mm_vision_tower": "siglip2-naflex",
        "min_num_patches": 4,
        "max_num_patches": 16,
        "text_config": without(
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


def _molmo(ids: Ids) -> dict[str, Any]:
    words = max(ids.values()) + 1
    return {
        "model_type": "molmo",
        "text_config": {
            "model_type": "molmo",
            "d_model": 32,
            "n_heads": 4,
            "n_kv_heads": 2,
            "n_layers": 2,
            "mlp_hidden_size": 64,
            "vocab_size": words,
            "embedding_size": words,
            "additional_vocab_size": 8,
            "max_position_embeddings": 2048,
        },
        "vision_config": {
            "model_type": "molmo",
            "hidden_size": 64,
            "image_emb_dim": 32,
            "image_num_heads": 4,
            "image_num_key_value_heads": 4,
            "image_num_layers": 3,
            "image_head_dim": 8,
            "image_mlp_dim": 64,
            "d_model": 32,
            "vit_layers": [-1, -2],
        },
    }


_TEXTS_ONLY = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content if message.content is string else message.content "
    "| selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\n') }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Molmo's has no place for images: the processor puts them before the prompt."""


def _fastvlm(ids: Ids) -> dict[str, Any]:
    """The widths of its encoder are in the code; here its pictures are small."""
    return {
        "model_type": "fastvlm",
        "image_token_index": -200,
        "text_config": text(ids, "qwen2", tie_word_embeddings=True),
        "vision_config": {"image_size": 128, "patch_size": 64},
    }


def _hunyuan_vl(ids: Ids) -> dict[str, Any]:
    rope = {"alpha": 1000.0, "factor": 1.0, "type": "xdrope", "xdrope_section": [2, 2, 2, 2]}
    own = {
        "org_vocab_size": max(ids.values()) + 1,
        "head_dim": 16,
        "attention_head_dim": 16,
        "rope_scaling": rope | {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0},
        "tie_word_embeddings": True,
    }
    return {
        "model_type": "hunyuan_vl",
        "text_config": text(ids, "hunyuan_vl", **own),
        "vision_config": {
            "hidden_size": 32,
            "out_hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_image_size": 256,
        },
    }


OTHERS: dict[str, Family] = {
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
    "molmo": Family(
        _molmo,
        tokens=("<im_patch>", "<im_col>", "<im_start>", "<im_end>"),
        template=_TEXTS_ONLY,
    ),
    "fastvlm": Family(
        _fastvlm,
        preprocessor={
            "size": {"shortest_edge": 128},
            "crop_size": {"height": 128, "width": 128},
        },
    ),
    "hunyuan_vl": Family(
        _hunyuan_vl,
        "<|image_start|><|image|><|image_end|>",
        (),
        preprocessor={"min_pixels": 1024, "max_pixels": 16384, "patch_size": 16, "merge_size": 2},
        fixed={
            "<|pad|>": 120002,
            "<|image_start|>": 120118,
            "<|image_end|>": 120119,
            "<|image|>": 120120,
            "<|image_newline|>": 120121,
            "<|last|>": 120817,
        },
    ),
}
