"""Vision models of a few kilobytes with random weights: mlx-vlm's own classes and processors.

The vocabulary is that of `tiny_model`, the 256 bytes, with the control tokens of each family. An
image is told from another, and not understood.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm.utils import get_model_and_args, update_module_configs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Family = Literal["qwen2_5_vl", "llava", "gemma3", "qwen3_vl", "smolvlm", "gemma4"]
FAMILIES: tuple[Family, ...] = get_args(Family)
"""Qwen3's have features at several layers, SmolVLM cuts images to tiles, and Gemma 4 attends to
what follows within an image."""

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
_WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "rms_norm_eps": 1e-5}
_SIDE, _PATCH = 56, 14
"""Pixels of the images that LLaVA and Gemma scale to, and of a patch."""
_CLIP = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "image_size": _SIDE,
    "patch_size": _PATCH,
}
_HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_SCALED = {"size": {"height": _SIDE, "width": _SIDE}, **_HALVES}

QWEN_TOWER = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 32,
    "num_heads": 2,
    "patch_size": 16,
    "num_position_embeddings": 64,
}
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_GEMMA4_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content | trim }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|image|>{% else %}{{ part.text | trim }}{% endif %}"
    "{% endfor %}{% endif %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:"
    "{% if message.content is string %} {{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %} {{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message.role.upper() }}: "
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}"
    "<image>\n{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ part.text }} "
    "{% endfor %}{% if message.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The template of llava-hf: images come first, and a text that is no part is not shown."""
_GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}<start_of_turn>{{ role }}\n"
    "{% if message.content is string %}{{ message.content | trim }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


class Plan:
    """The files of one family: configuration, control tokens, template, settings of images."""

    def __init__(
        self,
        tokens: tuple[str, ...],
        template: str,
        named: Mapping[str, str],
        processor: Mapping[str, Any],
        preprocessor: Mapping[str, Any],
        *,
        fixed: Mapping[str, int] | None = None,
    ) -> None:
        """`fixed`: ids of tokens that a library has in its code."""
        self.ids = {name: 256 + place for place, name in enumerate(tokens)} | dict(fixed or {})
        self.template = template
        self.named = named
        self.processor = processor
        self.preprocessor = preprocessor


_PLANS: dict[Family, Plan] = {
    "qwen2_5_vl": Plan(
        (
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|image_pad|>",
            "<|video_pad|>",
        ),
        QWEN_TEMPLATE,
        {"eos_token": "<|im_end|>", "pad_token": "<|im_start|>"},
        {},
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": _PATCH,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "min_pixels": 28 * 28,
            "max_pixels": 84 * 84,
            **_HALVES,
        },
    ),
    "qwen3_vl": Plan(
        (
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|image_pad|>",
            "<|video_pad|>",
        ),
        QWEN_TEMPLATE,
        {"eos_token": "<|im_end|>", "pad_token": "<|im_start|>"},
        {},
        {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "patch_size": 16,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96},
            **_HALVES,
        },
    ),
    "smolvlm": Plan(
        (
            "<|im_start|>",
            "<end_of_utterance>",
            "<image>",
            "<fake_token_around_image>",
            "<pad>",
            "<global-img>",
            *(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)),
        ),
        _SMOLVLM_TEMPLATE,
        {
            "eos_token": "<end_of_utterance>",
            "pad_token": "<pad>",
            "fake_image_token": "<fake_token_around_image>",
            "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>",
            "global_image_token": "<global-img>",
        },
        {"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
        {
            "image_processor_type": "SmolVLMImageProcessor",
            "do_image_splitting": True,
            "size": {"longest_edge": 2 * _SIDE},
            "max_image_size": {"longest_edge": _SIDE},
            **_HALVES,
        },
    ),
    "gemma4": Plan(
        (
            "<bos>",
            "<turn|>",
            "<|turn>",
            "<|image|>",
            "<|image>",
            "<image|>",
            "<|audio|>",
            "<|video|>",
            "<pad>",
        ),
        _GEMMA4_TEMPLATE,
        {
            "bos_token": "<bos>",
            "eos_token": "<turn|>",
            "pad_token": "<pad>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
        },
        {
            "processor_class": "Gemma4Processor",
            "image_processor": {"patch_size": 16, "max_soft_tokens": 6, "pooling_kernel_size": 2},
        },
        {},
    ),
    "llava": Plan(
        ("<s>", "</s>", "<image>", "<pad>"),
        _LLAVA_TEMPLATE,
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        {
            "processor_class": "LlavaProcessor",
            "patch_size": _PATCH,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": _SIDE},
            "crop_size": {"height": _SIDE, "width": _SIDE},
            **_HALVES,
        },
    ),
    "gemma3": Plan(
        (
            "<bos>",
            "<end_of_turn>",
            "<start_of_turn>",
            "<start_of_image>",
            "<end_of_image>",
            "<image_soft_token>",
            "<pad>",
        ),
        _GEMMA_TEMPLATE,
        {
            "bos_token": "<bos>",
            "eos_token": "<end_of_turn>",
            "pad_token": "<pad>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        {"image_processor_type": "Gemma3ImageProcessor", **_SCALED},
    ),
}


def write_tiny_vision(folder: Path, family: Family, *, template: str | None = None) -> Path:
    """A folder as the hub has them, in mlx-vlm's form."""
    plan = _PLANS[family]
    return write_planned(folder, plan, _config(family, plan.ids), template=template)


def write_planned(
    folder: Path, plan: Plan, config: dict[str, Any], *, template: str | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.0}))
    _write_weights(folder, config)
    _write_tokenizer(folder, plan, template or plan.template)
    (folder / "preprocessor_config.json").write_text(json.dumps(plan.preprocessor))
    if plan.processor:
        (folder / "processor_config.json").write_text(json.dumps(plan.processor))
    return folder


def _config(family: Family, ids: Mapping[str, int]) -> dict[str, Any]:
    text = {**_WIDTHS, **_HEADS, "vocab_size": 256 + len(ids), "max_position_embeddings": 2048}
    if family == "qwen2_5_vl":
        return {
            "model_type": "qwen2_5_vl",
            **text,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "tie_word_embeddings": False,
            "eos_token_id": ids["<|im_end|>"],
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            "vision_config": {
                "model_type": "qwen2_5_vl",
                "depth": 3,
                "hidden_size": 32,
                "intermediate_size": 64,
                "out_hidden_size": 32,
                "num_heads": 2,
                "patch_size": _PATCH,
                "window_size": 56,
                "fullatt_block_indexes": [1],
            },
        }
    if family == "qwen3_vl":
        mrope = {"type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        return {
            "model_type": "qwen3_vl",
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            "eos_token_id": ids["<|im_end|>"],
            "text_config": {
                "model_type": "qwen3_vl_text",
                **text,
                "head_dim": 8,
                "rope_theta": 10000.0,
                "rope_scaling": mrope,
            },
            "vision_config": {
                "model_type": "qwen3_vl",
                **QWEN_TOWER,
                "deepstack_visual_indexes": [0, 1],
            },
        }
    if family == "smolvlm":
        return {
            "model_type": "smolvlm",
            "image_token_id": ids["<image>"],
            "eos_token_id": ids["<end_of_utterance>"],
            "scale_factor": 2,
            "text_config": {"model_type": "llama", **text, "rope_theta": 10000.0},
            "vision_config": {"model_type": "smolvlm_vision", **_CLIP},
        }
    if family == "gemma4":
        return {
            "model_type": "gemma4",
            "eos_token_id": ids["<turn|>"],
            "pad_token_id": ids["<pad>"],
            "image_token_id": ids["<|image|>"],
            "audio_token_id": ids["<|audio|>"],
            "video_token_id": ids["<|video|>"],
            "boi_token_id": ids["<|image>"],
            "eoi_token_id": ids["<image|>"],
            "hidden_size": 32,
            "vision_soft_tokens_per_image": 6,
            "audio_config": None,
            "tie_word_embeddings": False,
            "text_config": {
                "model_type": "gemma4_text",
                **text,
                "num_hidden_layers": 4,
                "num_kv_shared_layers": 2,
                "head_dim": 8,
                "global_head_dim": 8,
                "hidden_size_per_layer_input": 8,
                "vocab_size_per_layer_input": text["vocab_size"],
                "sliding_window": 16,
                "sliding_window_pattern": 2,
                "tie_word_embeddings": False,
                "use_bidirectional_attention": "vision",
                "pad_token_id": ids["<pad>"],
            },
            "vision_config": {
                "model_type": "gemma4_vision",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "head_dim": 8,
                "global_head_dim": 8,
                "patch_size": 16,
                "pooling_kernel_size": 2,
                "default_output_length": 6,
                "position_embedding_size": 64,
            },
        }
    if family == "llava":
        return {
            "model_type": "llava",
            "eos_token_id": ids["</s>"],
            "image_token_index": ids["<image>"],
            "text_config": {"model_type": "llama", **text, "tie_word_embeddings": False},
            "vision_config": {"model_type": "clip_vision_model", **_CLIP},
        }
    return {
        "model_type": "gemma3",
        "eos_token_id": ids["<end_of_turn>"],
        "pad_token_id": ids["<pad>"],
        "image_token_index": ids["<image_soft_token>"],
        "hidden_size": 32,
        "text_config": {
            "model_type": "gemma3_text",
            **text,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 16,
            "sliding_window_pattern": 2,
            "mm_tokens_per_image": 4,
        },
        "vision_config": {"model_type": "siglip_vision_model", **_CLIP},
    }


def _write_weights(folder: Path, config: dict[str, Any]) -> None:
    module, _ = get_model_and_args(config)
    own = json.loads(json.dumps(config))  # mlx-vlm changes what it is passed.
    settings = module.ModelConfig.from_dict(own)
    parts = ["text", "vision", "perceiver", "projector", "audio"]
    settings = update_module_configs(settings, module, own, parts)
    mx.random.seed(7)
    parameters: Any = tree_flatten(module.Model(settings).parameters())
    weights = {name: _random(name, array) for name, array in parameters}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})


def _random(name: str, array: mx.array) -> mx.array:
    """Norms and biases stay as they are. Small embeddings: else a model that ties them to its head
    repeats the last token."""
    if array.ndim < 2:
        return array
    return mx.random.normal(array.shape) * (0.02 if "embed_tokens" in name else 0.3)


def _write_tokenizer(folder: Path, plan: Plan, template: str) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: token for token, char in enumerate(alphabet)} | plan.ids
    free = set(range(max(vocabulary.values()))) - set(vocabulary.values())
    vocabulary |= {f"<unused{token}>": token for token in free}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in plan.ids])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
        **plan.named,
        "extra_special_tokens": {
            name: text for name, text in plan.named.items() if name in _OF_IMAGES
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


_OF_IMAGES = frozenset(
    {
        "boi_token",
        "eoi_token",
        "image_token",
        "fake_image_token",
        "end_of_utterance_token",
        "global_image_token",
    }
)
