# pyright: basic
"""The arrays of a folder: named, shaped, and read from the disk when they are used.

Source: https://huggingface.co/docs/safetensors (the format: length, JSON header, data)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError

_TYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its bits
    "U32": np.dtype("<u4"),
}


@dataclass(frozen=True)
class StoredArray:
    dtype: str
    """F32, F16, BF16 or U32."""
    data: NDArray

    def as_float32(self) -> NDArray[np.float32]:
        if self.dtype == "BF16":
            return (self.data.astype("<u4") << 16).view(np.float32)
        return self.data.astype(np.float32)


def read_arrays(folder: Path) -> Mapping[str, StoredArray]:
    """By name, those of all `model*.safetensors`.

    Raises:
        UnsupportedGGUFError: a type that no model of ours has, or the file is cut short.
        OSError: it cannot be read.
    """
    found: dict[str, StoredArray] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        found |= _read_file(path)
    if not found:
        raise UnsupportedGGUFError(f"There are no weights in '{folder.name}'.")
    return found


def _read_file(path: Path) -> dict[str, StoredArray]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise UnsupportedGGUFError(f"'{path.name}' is no safetensors file.")
        header = json.loads(file.read(size))
    whole = np.memmap(path, np.uint8, "r", offset=8 + size)
    header.pop("__metadata__", None)
    return {name: _array(name, entry, whole) for name, entry in header.items()}


def _array(name: str, entry: dict, whole: NDArray[np.uint8]) -> StoredArray:
    dtype = _TYPES.get(entry["dtype"])
    if dtype is None:
        raise UnsupportedGGUFError(f"The type {entry['dtype']} of '{name}' is not supported.")
    first, last = entry["data_offsets"]
    if last > len(whole):
        raise UnsupportedGGUFError(f"The file breaks off before '{name}'.")
    return StoredArray(entry["dtype"], whole[first:last].view(dtype).reshape(entry["shape"]))
