"""What MLX computes on here, and what it may take. Importing it imports mlx, and nothing more."""

# pyright: basic
import os
from typing import Literal

import mlx.core as mx


def system_memory() -> int:
    """Bytes of RAM in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def recommended_memory() -> int | None:
    """Metal's `recommendedMaxWorkingSetSize`: beyond it a Mac pages, or ends the process.

    `None` on a CPU, which recommends nothing.
    """
    said = mx.device_info().get("max_recommended_working_set_size")
    return int(said) if said is not None else None


def unpacks(parameters: int, dequantize: Literal["auto", "always", "never"]) -> bool:
    """Whether weights become float32 at load.

    On a CPU only float32 goes through BLAS: there, packed or half-precision is far slower.
    """
    if dequantize != "auto":
        return dequantize == "always"
    if mx.default_device() != mx.Device(mx.cpu):
        return False
    return 4 * parameters < system_memory() // 2
