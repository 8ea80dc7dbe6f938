# pyright: basic
"""Which tensors each architecture has, what MLX calls them, and the model's `config.json`.

A new architecture is a row of `ARCHITECTURES`. Everything a GGUF says that its row does not
expect, key or tensor, is refused by name: a model with a part left out still talks, only wrongly.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (keys and tensor names)
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf import rotary

Fields = Mapping[str, Any]
"""Metadata key -> value, the architecture's prefix taken off its own keys."""


@dataclass(frozen=True)
class Architecture:
    model_type: str
    """mlx-lm's name of it."""
    hub_class: str
    """`architectures` of its `config.json` on the hub."""
    block: Mapping[str, str]
    """Within a block: GGUF's tensor -> MLX's module. Each must be there."""
    keys: frozenset[str]
    """The metadata that `config` understands or that says nothing more."""
    config: Callable[[Fields], dict[str, Any]]
    biased: frozenset[str] = frozenset()
    """Those that have a bias beside their weight."""
    interleaved: frozenset[str] = frozenset()
    """Those whose rows llama.cpp's converter reorders for its rotary embedding."""
    norm_offset: float = 0.0
    """What GGUF's norms are more than MLX's."""


# Outside of blocks.
_VOCABULARY = {"token_embd.weight": "model.embed_tokens", "output_norm.weight": "model.norm"}


def read_architecture(metadata: Mapping[str, Any]) -> tuple[Architecture, Fields]:
    """The row for the file's architecture, and the file's keys under it.

    Raises:
        UnsupportedGGUFError: no row, or a key that the row does not know.
    """
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedGGUFError(f"The architecture '{name}' is not supported, only {known}.")
    architecture = ARCHITECTURES[name]
    fields = {
        key.removeprefix(f"{name}."): value
        for key, value in metadata.items()
        if key.startswith(f"{name}.")
    }
    unknown = sorted(fields.keys() - architecture.keys)
    if unknown:
        raise UnsupportedGGUFError(f"{name}: the setting '{unknown[0]}' is not supported.")
    for key, value in fields.items():
        if isinstance(value, list) and key != _PATTERN:
            raise UnsupportedGGUFError(f"{name}: '{key}' differs by layer; that is not supported.")
    return architecture, fields


def module_names(architecture: Architecture, fields: Fields, tensors: set[str]) -> dict[str, str]:
    """GGUF tensor -> MLX module, for all of `tensors` but the rotary table.

    Raises:
        UnsupportedGGUFError: a tensor is missing, or one is there that the row does not know.
    """
    names = dict(_VOCABULARY)
    for index in range(int(_required(fields, "block_count"))):
        for source, module in architecture.block.items():
            names[f"blk.{index}.{source}.weight"] = f"model.layers.{index}.{module}"
            if source in architecture.biased:
                names[f"blk.{index}.{source}.bias"] = f"model.layers.{index}.{module}"
    if missing := sorted(names.keys() - tensors):
        raise UnsupportedGGUFError(f"The tensor '{missing[0]}' is missing.")
    if "output.weight" in tensors:
        names["output.weight"] = "lm_head"
    if unknown := sorted(tensors - names.keys() - {"rope_freqs.weight"}):
        raise UnsupportedGGUFError(f"The tensor '{unknown[0]}' is not supported.")
    return names


def row_order(
    architecture: Architecture, head_dim: int, tensor: str, rows: int
) -> NDArray[np.intp] | None:
    """For each row of MLX's weight the row of GGUF's `tensor`; `None` where they agree.

    Within a head of d rows MLX keeps the first and the second halves of the rotary pairs apart,
    where GGUF has each pair's two rows next to each other.

    Raises:
        UnsupportedGGUFError: the rows are no whole number of heads.
    """
    match = re.fullmatch(r"blk\.\d+\.(\w+)\.weight", tensor)
    if match is None or match[1] not in architecture.interleaved:
        return None
    if rows % head_dim:
        raise UnsupportedGGUFError(f"'{tensor}' has {rows} rows, in heads of {head_dim}.")
    order = np.arange(rows, dtype=np.intp)
    return order.reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def is_norm(tensor: str) -> bool:
    return tensor.endswith("norm.weight")


def _required(fields: Fields, key: str) -> Any:
    if key not in fields:
        raise UnsupportedGGUFError(f"The setting '{key}' is missing.")
    return fields[key]


def _refuse_unequal(fields: Fields, key: str, only: float) -> None:
    if float(fields.get(key, only)) != only:
        raise UnsupportedGGUFError(f"'{key}' = {fields[key]} is not supported, only {only:g}.")


def _decoder_config(fields: Fields) -> dict[str, Any]:
    """What all of them say in the same words."""
    heads = int(_required(fields, "attention.head_count"))
    width = int(_required(fields, "embedding_length"))
    head_dim = int(fields.get("attention.key_length", width // heads))
    _refuse_unequal(fields, "attention.value_length", head_dim)
    _refuse_unequal(fields, "rope.dimension_count", head_dim)
    _refuse_unequal(fields, "expert_count", 0)
    return {
        "hidden_size": width,
        "num_hidden_layers": int(_required(fields, "block_count")),
        "intermediate_size": int(_required(fields, "feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields.get("attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "rms_norm_eps": float(_required(fields, "attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": int(_required(fields, "context_length")),
        "rope_theta": float(fields.get("rope.freq_base", 10000.0)),
        "rope_scaling": rotary.rope_scaling(fields),
    }


def _qwen2_config(fields: Fields) -> dict[str, Any]:
    config = _decoder_config(fields)
    # mlx-lm's class knows no other width of a head.
    own = config["hidden_size"] // config["num_attention_heads"]
    _refuse_unequal(fields, "attention.key_length", own)
    return config


_PATTERN = "attention.sliding_window_pattern"
_GLOBAL_EVERY = 6
"""Gemma 3: five layers that look back over a window, then one that looks back over everything."""
_GEMMA3_27B_BLOCKS = 62


def _gemma3_config(fields: Fields) -> dict[str, Any]:
    config = _decoder_config(fields)
    _refuse_unequal(fields, "final_logit_softcapping", 0)
    _refuse_pattern(fields, config["num_hidden_layers"])
    heads, blocks = config["num_attention_heads"], config["num_hidden_layers"]
    # The file does not tell by what attention is scaled, and llama.cpp goes by the blocks too.
    scale = config["hidden_size"] // heads if blocks == _GEMMA3_27B_BLOCKS else config["head_dim"]
    return config | {
        "query_pre_attn_scalar": scale,
        "rope_theta": float(fields.get("rope.freq_base", 1_000_000.0)),
        "rope_local_base_freq": _local_base(fields),
        "sliding_window": int(_required(fields, "attention.sliding_window")),
        "sliding_window_pattern": _GLOBAL_EVERY,
    }


def _local_base(fields: Fields) -> float:
    """llama.cpp's converter and Ollama's have different names for it."""
    own = fields.get("rope.freq_base_swa", fields.get("rope.local.freq_base", 10000.0))
    return float(own)


def _refuse_pattern(fields: Fields, blocks: int) -> None:
    told = fields.get(_PATTERN, _GLOBAL_EVERY)
    pattern = [(index + 1) % _GLOBAL_EVERY != 0 for index in range(blocks)]
    if told not in (_GLOBAL_EVERY, pattern):
        raise UnsupportedGGUFError(f"'{_PATTERN}' is another one than that of Gemma 3.")


_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_KEYS = rotary.KEYS | {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "vocab_size",
}

ARCHITECTURES: dict[str, Architecture] = {
    # Mistral's models too: llama.cpp's converter calls them so.
    "llama": Architecture(
        model_type="llama",
        hub_class="LlamaForCausalLM",
        block=_BLOCK,
        keys=_KEYS,
        config=_decoder_config,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "qwen2": Architecture(
        model_type="qwen2",
        hub_class="Qwen2ForCausalLM",
        block=_BLOCK,
        keys=_KEYS,
        config=_qwen2_config,
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        hub_class="Qwen3ForCausalLM",
        block=_BLOCK | _HEAD_NORMS,
        keys=_KEYS,
        config=_decoder_config,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        hub_class="Gemma3ForCausalLM",
        block=_BLOCK
        | _HEAD_NORMS
        | {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        keys=_KEYS
        | {
            _PATTERN,
            "attention.sliding_window",
            "final_logit_softcapping",
            "rope.freq_base_swa",
            "rope.local.freq_base",
        },
        config=_gemma3_config,
        norm_offset=1.0,
    ),
}
