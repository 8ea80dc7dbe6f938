# pyright: basic
"""One architecture: names of its tensors and settings on both sides, and what rows share."""

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf import rotary

Fields = Mapping[str, Any]
"""Metadata key -> value; keys of the architecture without its prefix."""


@dataclass(frozen=True)
class Architecture:
    model_type: str
    """Name in mlx-lm."""
    hub_class: str
    """`architectures` of its `config.json` on the hub."""
    block: Mapping[str, str]
    """Tensor of every block in GGUF -> module in MLX. All are required."""
    config: Callable[[Fields], dict[str, Any]]
    """Settings from the metadata, but for those of the tables below."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """Metadata key -> setting: integers that both have."""
    scales: Mapping[str, str] = field(default_factory=dict)
    """Metadata key -> setting: floats that both have."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Metadata key -> setting: true or false, false where a file lacks the key."""
    constants: Mapping[str, int] = field(default_factory=dict)
    """Metadata keys without a setting, and their only value."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings without a metadata key, and their only value."""
    per_layer: Mapping[str, Callable[[int], list[Any]]] = field(default_factory=dict)
    """Like `fixed`, settings with a value for each layer, from the number of layers."""
    other_keys: frozenset[str] = frozenset()
    """Further metadata keys that `config` uses or that are redundant."""
    lists: frozenset[str] = frozenset({"attention.sliding_window_pattern"})
    """Metadata keys that may have a value for each layer, or be a list."""
    scales_rotary: bool = True
    """True if the class of mlx-lm reads `rope_scaling`."""
    scaling_settings: frozenset[str] = frozenset()
    """Names in `rope_scaling` that `settings` converts."""
    optional: Mapping[str, str] = field(default_factory=dict)
    """Tensors of a block that some models lack, and the setting that is true for the others."""
    biased: frozenset[str] = frozenset()
    """Tensors of `block` with a bias."""
    interleaved: frozenset[str] = frozenset()
    """Tensors of `block` with rows reordered by llama.cpp's converter for its rotary embedding."""
    norm_offset: float = 0.0
    """GGUF's norm weights minus MLX's."""
    requires_output: bool = False
    """True if one of the engines cannot use the embedding as the output matrix."""
    forbids_output: bool = False
    """True if mlx-lm has no other output matrix than the embedding."""
    bare: frozenset[str] = frozenset()
    """Tensors of `block` that are a parameter of their own in MLX, not the weight of a module."""
    suffixes: Mapping[str, str] = field(default_factory=dict)
    """Tensors of `block` with another suffix in GGUF than `.weight`."""
    added_axes: Mapping[str, int] = field(default_factory=dict)
    """Tensors of `block` with an axis of length one more in MLX, and its place. llama.cpp requires
    them in float32."""
    precise: frozenset[str] = frozenset()
    """Biases of `block` that are a parameter of their own in MLX, in float32 whatever the type of
    the matrices."""
    logarithms: frozenset[str] = frozenset()
    """Tensors of `block` that MLX has as the logarithm of the negative values."""
    varied: Callable[[Fields, int], Mapping[str, str]] = lambda fields, index: {}
    """Like `block`, tensors that only the block with this index has."""
    row_order: Callable[[Fields, str, int], NDArray[np.intp] | None] = lambda *_: None
    """Index of the GGUF's row for each of MLX's, from the name of the tensor and their number;
    None where the order is the same."""
    column_order: Callable[[Fields, str], NDArray[np.intp] | None] = lambda *_: None
    """The same of slices of the columns; there are as many, all of one width."""
    shape: Callable[[Fields, str], tuple[int, ...] | None] = lambda *_: None
    """Shape in a GGUF of a tensor that is a vector in MLX, by its name; None for all others."""
    parts: Callable[[Fields, str], Mapping[str, NDArray[np.intp]]] = lambda *_: {}
    """Tensors of a GGUF that MLX has as the one of `block` with this name: its rows of each."""
    outside: Callable[[Fields], Mapping[str, str]] = lambda fields: {}
    """Like `block`, further tensors that are in no block; their modules are below `body`."""
    unused: Callable[[Fields, int], Set[str]] = lambda fields, index: frozenset()
    """Tensors of the block with this index that a file may have, but no engine computes with."""
    prefix: str = ""
    """Beginning of the names of modules, before `body` and `lm_head`."""
    body: str = "model"
    """Module with the blocks, after `prefix`."""
    embedding: str = "embed_tokens"
    """Module of the embedding, below `body`."""
    final_norm: tuple[str, str] = ("output_norm", "model.norm")
    """The norm after the last block in GGUF and in MLX."""
    partial_rotary: bool = False
    """True if `partial_rotary_factor` is read: not all of a head is rotated."""
    rotated: str = "head_dim"
    """Setting with the value of `rope.dimension_count`, without `partial_rotary_factor`."""
    requires_table: bool = False
    """True if every file has a `rope_freqs.weight`."""
    read_table: Callable[[NDArray[np.float32], Fields], dict[str, Any]] = rotary.read_llama3_table
    """Settings from `rope_freqs.weight` and the others."""
    table: Callable[[Fields, int], NDArray[np.floating] | None] = rotary.llama3_table
    """`rope_freqs.weight` from a `config.json` and the size of a head; None for a file without."""
    spaced_vocabulary: str = "llama"
    """`tokenizer.ggml.model` of a vocabulary that writes spaces as ▁."""
    vocabulary_sizes: frozenset[str] = frozenset({"vocab_size"})
    """Settings with the number of rows of the embedding."""
    family: str | None = None
    """`general.architecture`, if the row has another name: llama.cpp has one for several types."""
    applies: Callable[[Fields], bool] = lambda fields: True
    """False for files of the family that are of another row."""
    is_row_of: Callable[[Fields], bool] = lambda config: True
    """False for a `config.json` of `model_type` that another row exports."""
    epsilon: tuple[str, str] = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    """Key and setting of the constant in norms."""
    defaults: Fields = field(default_factory=dict)
    """Values that mlx-lm or the hub takes for settings that a `config.json` lacks."""
    normalized: Callable[[Fields], Fields] = lambda config: config
    """A `config.json` in the terms of the other architectures, before an export."""
    nested: str | None = None
    """`model_type` of `text_config`, if the class of mlx-lm reads the settings there."""
    settings: Callable[[Fields], Fields] = lambda config: {}
    """Metadata of its own from a `config.json`, the reverse of `config`; raises
    UnsupportedGGUFError for values that the GGUF cannot have."""

    @property
    def keys(self) -> frozenset[str]:
        """All metadata keys that a file may have."""
        common = KEYS if self.scales_rotary else KEYS - _SCALING_KEYS
        return (
            common
            | {self.epsilon[0]}
            | self.counts.keys()
            | self.scales.keys()
            | self.flags.keys()
            | self.constants.keys()
            | self.other_keys
        )


def required(fields: Fields, key: str) -> Any:
    if fields.get(key) is None:
        raise UnsupportedGGUFError(f"The setting '{key}' is missing.")
    return fields[key]


def of_block(fields: Fields, key: str, index: int) -> Any:
    """The value of a block under a key that has one for each."""
    values = required(fields, key)
    if not isinstance(values, list) or index >= len(values):
        raise UnsupportedGGUFError(f"'{key}' = {values} has no value for block {index}.")
    return values[index]


def require_value(fields: Fields, key: str, value: float) -> None:
    if float(fields.get(key, value)) != value:
        raise UnsupportedGGUFError(f"'{key}' = {fields[key]} is not supported, only {value:g}.")


def require_settings(config: Fields, values: Mapping[str, Any]) -> None:
    """Reject settings of a `config.json` that are there with other values: no key has them.

    Null is what mlx-lm takes for false, and for most others as if it were absent.
    """
    for name, value in values.items():
        given = config.get(name, value)
        if given != value and (given is not None or value is True):
            raise UnsupportedGGUFError(f"'{name}' = {config[name]} is not supported.")


def head_size(fields: Fields) -> int:
    default = required(fields, "embedding_length") // required(fields, "attention.head_count")
    return int(fields.get("attention.key_length", default))


def trunk_config(fields: Fields) -> dict[str, Any]:
    """Settings that all architectures share, whatever their attention."""
    scaling = rotary.rope_scaling(fields)
    return {
        "hidden_size": int(required(fields, "embedding_length")),
        "num_hidden_layers": int(required(fields, "block_count")),
        "intermediate_size": int(required(fields, "feed_forward_length")),
        "num_attention_heads": int(required(fields, "attention.head_count")),
        "max_position_embeddings": int(required(fields, "context_length")),
        "rope_theta": float(fields.get("rope.freq_base", 10000.0)),
        **({} if scaling is None else {"rope_scaling": scaling}),
    }


def decoder_config(fields: Fields) -> dict[str, Any]:
    """Settings of a model with queries, keys and values of one size."""
    trunk, head_dim = trunk_config(fields), head_size(fields)
    require_value(fields, "attention.value_length", head_dim)
    kv_heads = int(fields.get("attention.head_count_kv", trunk["num_attention_heads"]))
    return trunk | {"num_key_value_heads": kv_heads, "head_dim": head_dim}


def plain_config(fields: Fields) -> dict[str, Any]:
    """Settings of a class of mlx-lm that supports no other size of heads."""
    config = decoder_config(fields)
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    require_value(fields, "attention.key_length", head_dim)
    return config


def expert_counts(total: str) -> dict[str, str]:
    """Numbers of experts for a `config.json` that calls their sum `total`."""
    return {"expert_count": total, "expert_used_count": "num_experts_per_tok"}


PATTERN = "attention.sliding_window_pattern"


def require_pattern(fields: Fields, every: int) -> None:
    """Reject full attention elsewhere than in each block number `every`: llama.cpp does not read
    a value per block."""
    blocks = range(int(required(fields, "block_count")))
    if fields.get(PATTERN, every) not in (every, [(i + 1) % every != 0 for i in blocks]):
        raise UnsupportedGGUFError(
            f"'{PATTERN}' with other blocks than each {every}th is not supported."
        )


ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}


FFN_NORM = {"ffn_norm": "post_attention_layernorm"}


MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


BLOCK = ATTENTION | FFN_NORM | MLP


PROJECTIONS = frozenset({"attn_q", "attn_k", "attn_v"})
ROTATED = frozenset({"attn_q", "attn_k"})


EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.switch_mlp.gate_proj",
    "ffn_up_exps": "mlp.switch_mlp.up_proj",
    "ffn_down_exps": "mlp.switch_mlp.down_proj",
}


def owned(owner: str, block: Mapping[str, str]) -> dict[str, str]:
    """`block` with `owner` in place of `mlp`, by the name that a class has for it."""
    return {name: re.sub(r"^mlp\.", f"{owner}.", module) for name, module in block.items()}


SPARSE_BLOCK = FFN_NORM | owned("block_sparse_moe", EXPERTS)


ONE_NORM = ATTENTION | MLP


HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


PREDICTORS = "nextn_predict_layers"
"""Number of layers after the others that predict several tokens. llama.cpp uses them to draft
only, and counts them in `block_count`."""


KEYS = rotary.KEYS | {
    PREDICTORS,
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "vocab_size",
}


_SCALING_KEYS = {key for key in KEYS if key.startswith("rope.scaling.")}
