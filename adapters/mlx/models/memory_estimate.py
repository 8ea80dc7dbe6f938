"""Estimate the memory of a model from the headers of its files: no mlx, no weights read."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from msgspec import Struct

_HEADER_BYTES = 100 * 1024**2
"""The limit of the format. Source: https://github.com/huggingface/safetensors#format"""
_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_GROUP = 64
"""Numbers that share a scale and a bias: mlx's default, for weights and quantised caches."""
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
"""Parts of the names of settings for layers with a state other than keys and values."""


class Tensor(Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numbers * _BYTES[self.dtype]


class Weights(Struct, frozen=True):
    stored: int
    """Bytes in the files."""
    unpacked: int
    """Bytes as float32."""
    itemsize: int
    """Bytes of an unquantised number: the type of keys and values."""


def read_weights(folder: Path) -> Weights | None:
    """Sizes of all weights; None if a file is malformed or has an unknown data type."""
    try:
        tensors = read_tensors(folder)
        return _sizes(tensors, _group_sizes(folder)) if tensors else None
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read data type and shape of all weights by name.

    Raises:
        OSError, ValueError, KeyError, TypeError, struct.error: a file is malformed.
    """
    tensors: dict[str, Tensor] = {}
    # Some models of audio have other names for their files.
    files = list(folder.glob("model*.safetensors")) or list(folder.glob("*.safetensors"))
    for file in files:
        tensors |= dict(_read_header(file))
    return tensors


def lora_bytes(folder: Path | None) -> int:
    """Bytes of the layers in a LoRA folder, which are as large in memory as on disk."""
    files = folder.glob("*.safetensors") if folder is not None else ()
    return sum(file.stat().st_size for file in files if not file.name[0].isdigit())


def _read_header(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Read the header: eight bytes of length, JSON `{name: {"dtype", "shape", "data_offsets"}}`."""
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        if length > _HEADER_BYTES:
            raise ValueError("not a safetensors header")
        header = cast(dict[str, Any], json.loads(source.read(length)))
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, Tensor(entry["dtype"], tuple(entry["shape"]))


def _sizes(tensors: dict[str, Tensor], groups: dict[str, int]) -> Weights:
    default = groups.get("", _GROUP)
    unpacked = 0
    for name, tensor in tensors.items():
        base, _, part = name.rpartition(".")
        scales = tensors.get(f"{base}.scales")
        if scales is None or part == "bias":
            unpacked += tensor.numbers * _FLOAT32
        elif part == "weight":
            unpacked += scales.numbers * groups.get(base, default) * _FLOAT32
    floats = [_BYTES[t.dtype] for t in tensors.values() if t.dtype in _FLOATS]
    stored = sum(tensor.nbytes for tensor in tensors.values())
    return Weights(stored, unpacked, max(floats, default=2))


def _group_sizes(folder: Path) -> dict[str, int]:
    """Group size by layer, if it differs from that of "", which is all other layers."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    quantization: dict[str, Any] = (
        config.get("quantization") or config.get("quantization_config") or {}
    )
    layers = {k: cast(dict[str, int], v) for k, v in quantization.items() if type(v) is dict}
    own = {name: layer["group_size"] for name, layer in layers.items() if "group_size" in layer}
    return {**own, "": quantization.get("group_size", _GROUP)}


def context_bytes(
    config: dict[str, Any], tokens: int, itemsize: int, kv_bits: int | None = None
) -> int | None:
    """Bytes of keys and values for `tokens` of prompt and answer.

    `None` for architectures with other states, or if the configuration is incomplete.
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
    # Sliding windows and heads that groups do not divide are never quantised.
    if width % _GROUP or text.get("sliding_window") is not None:
        kv_bits = None
    # A quantised cache also has a scale and a bias for each group.
    number_bytes = itemsize if kv_bits is None else kv_bits / 8 + 2 * itemsize / _GROUP
    cached = sum(_cached_tokens(text, layer, tokens) for layer in range(layers))
    return int(2 * groups * width * number_bytes * cached)


def _cached_tokens(text: dict[str, Any], layer: int, tokens: int) -> int:
    """Tokens that a layer keeps: at most its sliding window, if it has one."""
    window = text.get("sliding_window")
    kinds = cast(list[str], text.get("layer_types") or [])
    if not isinstance(window, int):
        return tokens
    kind = kinds[layer] if layer < len(kinds) else "full_attention"
    return min(tokens, window) if kind == "sliding_attention" else tokens
