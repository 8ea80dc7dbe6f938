"""Models of a few kilobytes with random weights: every kind of cache, in milliseconds.

Their vocabulary is the 256 bytes, so that any character beyond ASCII takes several tokens, and
two control tokens. What they say is noise; that it is the same noise each time is the point.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama, llama4, mamba
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adapters.config import MLXConfig

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.name %}{{ raise_exception('no names here') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n"
    "{% for tool in tools %}{{ tool.function.name }}\n{% endfor %}"
    "Answer with <tool_call></tool_call>.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{ message.content }}"
    "{% for call in message.tool_calls %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Template of a model that thinks and calls, as Qwen3 does."""
END = 257
NO_FOLDER = "/no/cache/here"

_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 258, "rms_norm_eps": 1e-5}
_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (llama, {**_SHAPE, **_ATTENTION, "rope_theta": 10000.0, "tie_word_embeddings": True}),
    # A window of 16 tokens in one layer, all of them in the other, as Gemma and gpt-oss have it.
    "sliding": (
        llama,
        {
            **_SHAPE,
            **_ATTENTION,
            "model_type": "llama",
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
    # Its chunked caches cannot be merged: this one takes the serial lane.
    "llama4": (
        llama4,
        {
            "text_config": {
                **_SHAPE,
                **_ATTENTION,
                "model_type": "llama4_text",
                "num_hidden_layers": 4,
                "intermediate_size_mlp": 64,
                "num_experts_per_tok": 1,
                "num_local_experts": 2,
                "interleave_moe_layer_step": 2,
                "attention_chunk_size": 64,
                "head_dim": 8,
                "max_position_embeddings": 512,
                "rope_scaling": None,
                "rope_theta": 10000.0,
                "use_qk_norm": False,
                "attention_bias": False,
            }
        },
    ),
    "mamba": (
        mamba,
        {
            **_SHAPE,
            "num_hidden_layers": 2,
            "state_size": 8,
            "conv_kernel": 4,
            "use_bias": False,
            "use_conv_bias": True,
            "time_step_rank": 2,
            "tie_word_embeddings": True,
        },
    ),
}


def write_tiny_model(
    folder: Path,
    kind: str = "llama",
    *,
    context: int = 512,
    template: str = TEMPLATE,
    temperature: float | None = 0.0,
    **changed: int,
) -> Path:
    """A folder as the hub has them: configuration, weights, tokenizer, chat template.

    `temperature` is its recommendation: greedy, so that tests compare texts without a seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module, shape = KINDS[kind]
    config = {"model_type": kind, "eos_token_id": END, **shape, **changed}
    config["max_position_embeddings"] = context
    (folder / "config.json").write_text(json.dumps(config))
    if temperature is not None:
        (folder / "generation_config.json").write_text(json.dumps({"temperature": temperature}))
    mx.random.seed(7)
    model = module.Model(module.ModelArgs.from_dict(config))
    parameters: Any = tree_flatten(model.parameters())
    weights = {name: array * 4 for name, array in parameters}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    write_tokenizer(folder, template)
    return folder


def config_for(folder: Path, **fields: Any) -> MLXConfig:
    """The models of `folder` and no others: none of the hub, none that were imported or bundled."""
    own = {
        "folders": (str(folder),),
        "huggingface_cache": False,
        "embedded": "never",
        "cache_folder": NO_FOLDER,
    }
    return MLXConfig(**{**own, **fields})


def write_sentencepiece(folder: Path) -> None:
    """Give a tiny model a vocabulary of the same size as Llama 2 has it: a space is `▁`, and none
    is before the first word of an answer."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "</s>"]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": "</s>"}))


def letters_without_bytes(letters: str) -> Any:
    """Return mlx-lm's tokenizer of a vocabulary of `letters` alone, as T5 has one: `</s>` is 0."""
    vocabulary = [("</s>", 0.0), ("<unk>", -10.0), *((letter, -3.0) for letter in ("▁", *letters))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("</s>", "<unk>")])
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    return TokenizerWrapper(own)


def write_tokenizer(folder: Path, template: str) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: token for token, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
