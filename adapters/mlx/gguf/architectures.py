# pyright: basic
"""Which tensors each architecture has, what MLX calls them, and the model's `config.json`.

A new architecture is a row of `ARCHITECTURES`. Everything a GGUF says that its row does not
expect, key or tensor, is refused by name: a model with a part left out still talks, only wrongly.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (keys and tensor names)
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.errors import UnsupportedGGUFError

Fields = Mapping[str, Any]
"""Metadata key -> value, the architecture's prefix taken off its own keys."""


@dataclass(frozen=True)
class Architecture:
    model_type: str
    """mlx-lm's name of it."""
    block: Mapping[str, str]
    """Within a block: GGUF's tensor -> MLX's module. Each must be there."""
    interleaved: frozenset[str]
    """Those whose rows llama.cpp's converter reorders for its rotary embedding."""
    keys: frozenset[str]
    """The metadata that `config` understands or that says nothing more."""
    config: Callable[[Fields], dict[str, Any]]


def read_architecture(metadata: Mapping[str, Any]) -> tuple[Architecture, Fields]:
    """The row for the file's architecture, and the file's keys under it.

    Raises:
        UnsupportedGGUFError: no row, or a key that the row does not know.
    """
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedGGUFError(f"The architecture '{name}' is not supported, only {known}.")
    architecture = ARCHITECTURES[name]
    fields = {
        key.removeprefix(f"{name}."): value
        for key, value in metadata.items()
        if key.startswith(f"{name}.")
    }
    unknown = sorted(fields.keys() - architecture.keys)
    if unknown:
        raise UnsupportedGGUFError(f"{name}: the setting '{unknown[0]}' is not supported.")
    for key, value in fields.items():
        if isinstance(value, list):
            raise UnsupportedGGUFError(f"{name}: '{key}' differs by layer; that is not supported.")
    return architecture, fields


def module_names(architecture: Architecture, fields: Fields, tensors: set[str]) -> dict[str, str]:
    """GGUF tensor -> MLX module, for all of `tensors` but the rotary table.

    Raises:
        UnsupportedGGUFError: a tensor is missing, or one is there that the row does not know.
    """
    names = {"token_embd.weight": "model.embed_tokens", "output_norm.weight": "model.norm"}
    for index in range(int(_required(fields, "block_count"))):
        for source, module in architecture.block.items():
            names[f"blk.{index}.{source}.weight"] = f"model.layers.{index}.{module}"
    if missing := sorted(names.keys() - tensors):
        raise UnsupportedGGUFError(f"The tensor '{missing[0]}' is missing.")
    if "output.weight" in tensors:
        names["output.weight"] = "lm_head"
    if unknown := sorted(tensors - names.keys() - {"rope_freqs.weight"}):
        raise UnsupportedGGUFError(f"The tensor '{unknown[0]}' is not supported.")
    return names


def row_order(
    architecture: Architecture, head_dim: int, tensor: str, rows: int
) -> NDArray[np.intp] | None:
    """For each row of MLX's weight the row of GGUF's `tensor`; `None` where they agree.

    Within a head of d rows MLX keeps the first and the second halves of the rotary pairs apart,
    where GGUF has each pair's two rows next to each other.

    Raises:
        UnsupportedGGUFError: the rows are no whole number of heads.
    """
    match = re.fullmatch(r"blk\.\d+\.(\w+)\.weight", tensor)
    if match is None or match[1] not in architecture.interleaved:
        return None
    if rows % head_dim:
        raise UnsupportedGGUFError(f"'{tensor}' has {rows} rows, in heads of {head_dim}.")
    order = np.arange(rows, dtype=np.intp)
    return order.reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


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
    expected = _llama3_factors(scaling, base, head_dim)
    if expected.shape != factors.shape or not np.allclose(expected, factors, rtol=1e-4):
        raise UnsupportedGGUFError("'rope_freqs.weight' is not the rotary scaling of Llama 3.")
    return scaling


def _llama3_factors(scaling: Mapping[str, Any], base: float, head_dim: int) -> NDArray[np.float64]:
    """Long waves are slowed by `factor`, short ones left, those between interpolated.

    Source: https://arxiv.org/abs/2407.21783, section 3, and Meta's reference `apply_scaling`
    """
    waves = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    turns = scaling["original_max_position_embeddings"] / waves
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - share) / scaling["factor"] + share)


def _required(fields: Fields, key: str) -> Any:
    if key not in fields:
        raise UnsupportedGGUFError(f"The setting '{key}' is missing.")
    return fields[key]


def _llama_config(fields: Fields) -> dict[str, Any]:
    heads = int(_required(fields, "attention.head_count"))
    width = int(_required(fields, "embedding_length"))
    head_dim = int(fields.get("attention.key_length", width // heads))
    _refuse_unequal(fields, "attention.value_length", head_dim)
    _refuse_unequal(fields, "rope.dimension_count", head_dim)
    _refuse_unequal(fields, "expert_count", 0)
    return {
        "hidden_size": width,
        "num_hidden_layers": int(_required(fields, "block_count")),
        "intermediate_size": int(_required(fields, "feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields.get("attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "rms_norm_eps": float(_required(fields, "attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": int(_required(fields, "context_length")),
        "rope_theta": float(fields.get("rope.freq_base", 10000.0)),
        "rope_scaling": _linear_scaling(fields),
    }


def _refuse_unequal(fields: Fields, key: str, only: int) -> None:
    if int(fields.get(key, only)) != only:
        raise UnsupportedGGUFError(f"'{key}' = {fields[key]} is not supported, only {only}.")


def _linear_scaling(fields: Fields) -> dict[str, Any] | None:
    kind = fields.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise UnsupportedGGUFError(f"The rotary scaling '{kind}' is not supported.")
    return {"rope_type": "linear", "factor": float(_required(fields, "rope.scaling.factor"))}


_LLAMA = Architecture(
    model_type="llama",
    block={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    interleaved=frozenset({"attn_q", "attn_k"}),
    keys=frozenset(
        {
            "attention.head_count",
            "attention.head_count_kv",
            "attention.key_length",
            "attention.layer_norm_rms_epsilon",
            "attention.value_length",
            "block_count",
            "context_length",
            "embedding_length",
            "expert_count",
            "feed_forward_length",
            "rope.dimension_count",
            "rope.freq_base",
            "rope.scaling.factor",
            "rope.scaling.type",
            "vocab_size",
        }
    ),
    config=_llama_config,
)

ARCHITECTURES: dict[str, Architecture] = {"llama": _LLAMA}
