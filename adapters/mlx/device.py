"""The device of MLX and its memory. Importing it imports mlx, and nothing more."""

# pyright: basic
import os
from typing import Literal

import mlx.core as mx


def system_memory() -> int:
    """Return the bytes of RAM of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def recommended_memory() -> int | None:
    """Return Metal's `recommendedMaxWorkingSetSize`, in bytes; `None` on a CPU.

    Beyond it a Mac pages, or ends the process.
    """
    nbytes = mx.device_info().get("max_recommended_working_set_size")
    return int(nbytes) if nbytes is not None else None


def unpacks(parameters: int, dequantize: Literal["auto", "always", "never"]) -> bool:
    """Return whether weights become float32 at load.

    On a CPU only float32 uses BLAS: packed or half-precision weights are far slower there.
    """
    if dequantize != "auto":
        return dequantize == "always"
    if mx.default_device() != mx.Device(mx.cpu):
        return False
    return 4 * parameters < system_memory() // 2
