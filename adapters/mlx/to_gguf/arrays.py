# pyright: basic
"""The arrays of a folder by name, memory-mapped: read from the disk when they are used.

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
    "U8": np.dtype("u1"),
}


@dataclass(frozen=True)
class StoredArray:
    dtype: str
    """F32, F16, BF16, U32 or U8."""
    data: NDArray

    def as_float32(self) -> NDArray[np.float32]:
        if self.dtype == "BF16":
            return (self.data.astype("<u4") << 16).view(np.float32)
        return self.data.astype(np.float32)


def read_arrays(folder: Path) -> Mapping[str, StoredArray]:
    """Arrays of all `model*.safetensors`, by name.

    Raises:
        UnsupportedGGUFError: a type is not supported, or a file is truncated.
        OSError: a file cannot be read.
    """
    arrays: dict[str, StoredArray] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        arrays |= _read_file(path)
    if not arrays:
        raise UnsupportedGGUFError(f"'{folder.name}' has no weights.")
    return arrays


def _read_file(path: Path) -> dict[str, StoredArray]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise UnsupportedGGUFError(f"'{path.name}' is not a safetensors file.")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    header.pop("__metadata__", None)
    return {name: _array(name, entry, data) for name, entry in header.items()}


def _array(name: str, entry: dict, data: NDArray[np.uint8]) -> StoredArray:
    dtype = _TYPES.get(entry["dtype"])
    if dtype is None:
        raise UnsupportedGGUFError(f"The type {entry['dtype']} of '{name}' is not supported.")
    first, last = entry["data_offsets"]
    if last > len(data):
        raise UnsupportedGGUFError(f"The file is truncated before the end of '{name}'.")
    return StoredArray(entry["dtype"], data[first:last].view(dtype).reshape(entry["shape"]))
