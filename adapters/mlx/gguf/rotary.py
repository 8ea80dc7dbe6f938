# pyright: basic
"""Rotary position embedding: GGUF's settings as MLX's `rope_scaling`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError

KEYS = frozenset(
    {
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.factor",
        "rope.scaling.finetuned",  # Does not change the computation.
        "rope.scaling.original_context_length",
        "rope.scaling.type",
    }
)


def rope_scaling(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """The value of `rope_scaling` in `config.json`; None without scaling.

    Raises:
        UnsupportedGGUFError: mlx-lm does not support the type, or a number is missing.
    """
    kind = fields.get("rope.scaling.type", "none")
    match kind:
        case "none":
            return None
        case "linear":
            return {"rope_type": "linear", "factor": _number(fields, "factor")}
        case "yarn":
            # Both engines have 32 and 1 as default bounds.
            return {
                "rope_type": "yarn",
                "factor": _number(fields, "factor"),
                "original_max_position_embeddings": int(_number(fields, "original_context_length")),
            }
        case _:
            raise UnsupportedGGUFError(f"The rotary scaling '{kind}' is not supported.")


def _number(fields: Mapping[str, Any], name: str) -> float:
    key = f"rope.scaling.{name}"
    if key not in fields:
        raise UnsupportedGGUFError(f"The setting '{key}' is missing.")
    return float(fields[key])


def llama3_scaling(
    factors: NDArray[np.float32], base: float, head_dim: int
) -> dict[str, float | str]:
    """Recover the `rope_scaling` that `rope_freqs.weight` was computed from.

    factors: (head_dim / 2,), the divisor of each rotary frequency. The file lacks the four numbers
    they were computed from; those of Llama 3.1 to 3.3 are tried, with the largest factor.

    Raises:
        UnsupportedGGUFError: these numbers result in other factors.
    """
    scaling = {
        "rope_type": "llama3",
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    expected = llama3_factors(scaling, base, head_dim)
    if expected.shape != factors.shape or not np.allclose(expected, factors, rtol=1e-4):
        raise UnsupportedGGUFError("'rope_freqs.weight' is not the rotary scaling of Llama 3.")
    return scaling


def llama3_factors(scaling: Mapping[str, Any], base: float, head_dim: int) -> NDArray[np.float64]:
    """Divisors of the frequencies: `factor` for low, 1 for high, interpolated in between.

    Source: https://arxiv.org/abs/2407.21783, section 3, and Meta's reference `apply_scaling`
    """
    waves = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    rotations = scaling["original_max_position_embeddings"] / waves
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    weight = np.clip((rotations - low) / (high - low), 0, 1)
    return 1 / ((1 - weight) / scaling["factor"] + weight)
