"""What a model will take of the memory, from its files' headers: no mlx, no weights read."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from msgspec import Struct

_HEADER_BYTES = 100 * 1024**2
"""The format's own limit. Source: https://github.com/huggingface/safetensors#format"""
_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_GROUP = 64
"""Numbers that share a scale and an offset: mlx's default, for weights and for packed caches."""
_FLOAT32 = 4
_OTHER_STATES = (
    "kv_lora_rank",
    "ssm",
    "mamba",
    "linear_",
    "recurrent",
    "conv_",
    "block_type",
    "chunk_size",
)
"""What the configurations name whose layers keep something else than plain keys and values."""


class Tensor(Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def nbytes(self) -> int:
        return self.numbers * _BYTES[self.dtype]


class Weights(Struct, frozen=True):
    stored: int
    """Bytes as they are in the files."""
    unpacked: int
    """Bytes as float32."""
    itemsize: int
    """Bytes of a number that is no packed weight: what keys and values are computed in."""


def read_weights(folder: Path) -> Weights | None:
    """`None` where a file cannot be understood, or holds a kind of number that is not known."""
    tensors: dict[str, Tensor] = {}
    try:
        for file in folder.glob("model*.safetensors"):
            tensors |= dict(_read_header(file))
        return _weigh(tensors, _group_sizes(folder)) if tensors else None
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def lora_bytes(folder: Path | None) -> int:
    """Of the layers that a LoRA folder adds; they are as large in memory as on disk."""
    files = folder.glob("*.safetensors") if folder is not None else ()
    return sum(file.stat().st_size for file in files if not file.name[0].isdigit())


def _read_header(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Eight bytes of length, and JSON: `{name: {"dtype", "shape", "data_offsets"}}`."""
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        if length > _HEADER_BYTES:
            raise ValueError("this is no header")
        header = cast(dict[str, Any], json.loads(source.read(length)))
    for name, told in header.items():
        if name != "__metadata__":
            yield name, Tensor(told["dtype"], tuple(told["shape"]))


def _weigh(tensors: dict[str, Tensor], groups: dict[str, int]) -> Weights:
    default = groups.get("", _GROUP)
    unpacked = 0
    for name, tensor in tensors.items():
        base, _, part = name.rpartition(".")
        scales = tensors.get(f"{base}.scales")
        if scales is None:
            unpacked += tensor.numbers * _FLOAT32
        elif part == "weight":
            unpacked += scales.numbers * groups.get(base, default) * _FLOAT32
        elif part == "bias":
            unpacked += tensor.numbers * _FLOAT32
    floats = [_BYTES[t.dtype] for t in tensors.values() if t.dtype in _FLOATS]
    stored = sum(tensor.nbytes for tensor in tensors.values())
    return Weights(stored, unpacked, max(floats, default=2))


def _group_sizes(folder: Path) -> dict[str, int]:
    """By layer, where it has one of its own; "" is all others'."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    said: dict[str, Any] = config.get("quantization") or config.get("quantization_config") or {}
    layers = cast(dict[str, dict[str, int]], {k: v for k, v in said.items() if type(v) is dict})
    own = {name: each["group_size"] for name, each in layers.items() if "group_size" in each}
    return {**own, "": said.get("group_size", _GROUP)}


def context_bytes(
    config: dict[str, Any], tokens: int, itemsize: int, kv_bits: int | None = None
) -> int | None:
    """Keys and values of an answer of `tokens`, prompt included.

    `None` for architectures that keep something else, or whose configuration does not tell.
    """
    text = cast(dict[str, Any], config.get("text_config") or config)
    if any(text[key] for key in text if any(part in key for part in _OTHER_STATES)):
        return None
    layers, heads = text.get("num_hidden_layers"), text.get("num_attention_heads")
    groups = text.get("num_key_value_heads") or heads
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(groups, int)):
        return None
    width = text.get("head_dim") or text.get("hidden_size", 0) // heads
    if not isinstance(width, int) or width < 1:
        return None
    # A packed cache has a scale and an offset for each group besides.
    each = itemsize if kv_bits is None else kv_bits / 8 + 2 * itemsize / _GROUP
    seen = sum(_seen(text, layer, tokens) for layer in range(layers))
    return int(2 * groups * width * each * seen)


def _seen(text: dict[str, Any], layer: int, tokens: int) -> int:
    """How many tokens a layer keeps: it may look back over a window only."""
    window = text.get("sliding_window")
    kinds = cast(list[str], text.get("layer_types") or [])
    if not isinstance(window, int):
        return tokens
    kind = kinds[layer] if layer < len(kinds) else "full_attention"
    return min(tokens, window) if kind == "sliding_attention" else tokens
