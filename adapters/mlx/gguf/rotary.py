# pyright: basic
"""How far positions turn keys and queries: GGUF's settings as MLX's `rope_scaling`."""

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
        "rope.scaling.finetuned",  # How the model came to it, which changes nothing.
        "rope.scaling.original_context_length",
        "rope.scaling.type",
    }
)


def rope_scaling(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Raises:
        UnsupportedGGUFError: a kind that mlx-lm has not, or a number is missing.
    """
    kind = fields.get("rope.scaling.type", "none")
    match kind:
        case "none":
            return None
        case "linear":
            return {"rope_type": "linear", "factor": _number(fields, "factor")}
        case "yarn":
            # Both engines take 32 and 1 turns for the bounds where the file names no others.
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
    """The `rope_scaling` that `rope_freqs.weight` was computed from.

    factors: (head_dim / 2,), what each rotary frequency is divided by. The file does not hold the
    four numbers behind them; those of Llama 3.1 to 3.3 are tried, with the largest factor.

    Raises:
        UnsupportedGGUFError: they do not give these factors.
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
    """Long waves are slowed by `factor`, short ones left, those between interpolated.

    Source: https://arxiv.org/abs/2407.21783, section 3, and Meta's reference `apply_scaling`
    """
    waves = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    turns = scaling["original_max_position_embeddings"] / waves
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - share) / scaling["factor"] + share)
