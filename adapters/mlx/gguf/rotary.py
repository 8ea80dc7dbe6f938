# pyright: basic
"""Rotary position embedding: GGUF's settings as MLX's `rope_scaling`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError

_BOUNDS = {"rope.scaling.yarn_beta_fast": 32, "rope.scaling.yarn_beta_slow": 1}
"""Keys of YaRN without a setting here, and the values that both engines have as defaults."""

KEYS = frozenset(
    {
        *_BOUNDS,
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
            for key, value in _BOUNDS.items():
                if fields.get(key, value) != value:
                    raise UnsupportedGGUFError(f"'{key}' = {fields[key]} is not supported.")
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


def scaling_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of the rotary scaling in a `config.json`; empty without scaling."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    return {} if kind == "default" else {**scaling, "rope_type": kind}


def read_llama3_table(factors: NDArray[np.float32], config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `config` that `rope_freqs.weight` results in."""
    if config.get("rope_scaling"):
        raise UnsupportedGGUFError(
            "'rope_freqs.weight' together with another rotary scaling is not supported."
        )
    return {"rope_scaling": llama3_scaling(factors, config["rope_theta"], config["head_dim"])}


_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""mlx-lm's, where a `config.json` has none."""


def llama3_table(config: Mapping[str, Any], head_dim: int) -> NDArray[np.float64] | None:
    """The values of `rope_freqs.weight`; None for another rotary scaling than that of Llama 3."""
    scaling = scaling_of(config)
    if scaling.get("rope_type") != "llama3":
        return None
    return llama3_factors({**_LLAMA3, **scaling}, float(config["rope_theta"]), head_dim)


_UNROTATED = np.float32(1e30)


def read_proportional_table(factors: NDArray[np.float32]) -> float:
    """The part of a head that is rotated: the frequencies of the rest have an endless divisor.

    Raises:
        UnsupportedGGUFError: the divisors are others.
    """
    rotated = int((factors == 1).sum())
    if not np.array_equal(factors, proportional_table(len(factors), rotated)):
        raise UnsupportedGGUFError("'rope_freqs.weight' has other factors than one and 1e30.")
    return rotated / len(factors)


def proportional_table(frequencies: int, rotated: int) -> NDArray[np.float32]:
    table = np.full(frequencies, _UNROTATED, np.float32)
    table[:rotated] = 1
    return table


_HIGH_FACTORS = (4.0, 1.0)
"""`high_freq_factor` of Llama 3 and of Llama 4."""


def llama3_scaling(
    factors: NDArray[np.float32], base: float, head_dim: int
) -> dict[str, float | str]:
    """Recover the `rope_scaling` that `rope_freqs.weight` was computed from.

    factors: (head_dim / 2,), the divisor of each rotary frequency. The file lacks the four numbers
    they were computed from; those of Llama 3.1 to 3.3 and of 4 are tried, with the largest factor.

    Raises:
        UnsupportedGGUFError: these numbers result in other factors.
    """
    for high in _HIGH_FACTORS:
        scaling = {
            "rope_type": "llama3",
            "factor": float(factors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": 8192,
        }
        expected = llama3_factors(scaling, base, head_dim)
        if expected.shape == factors.shape and np.allclose(expected, factors, rtol=1e-4):
            return scaling
    raise UnsupportedGGUFError("'rope_freqs.weight' is not the rotary scaling of Llama 3 or 4.")


def llama3_factors(scaling: Mapping[str, Any], base: float, head_dim: int) -> NDArray[np.float64]:
    """Divisors of the frequencies: `factor` for low, 1 for high, interpolated in between.

    Source: https://arxiv.org/abs/2407.21783, section 3, and Meta's reference `apply_scaling`
    """
    waves = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    rotations = scaling["original_max_position_embeddings"] / waves
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    # Llama 4 has the same twice: nothing lies in between.
    weight = rotations >= low if low == high else np.clip((rotations - low) / (high - low), 0, 1)
    return 1 / ((1 - weight) / scaling["factor"] + weight)
