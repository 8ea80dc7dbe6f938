# pyright: basic
"""The architectures by name, and what a conversion asks of one."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures import cohere, gemma, gpt_oss, llama, olmo, qwen
from adapters.mlx.gguf.architectures.row import (
    PATTERN,
    Architecture,
    Fields,
    require_value,
    required,
)

# The first row of a family that applies is used.
ARCHITECTURES: dict[str, Architecture] = {
    **llama.ROWS,
    **qwen.ROWS,
    **gemma.ROWS,
    **olmo.ROWS,
    **cohere.ROWS,
    **gpt_oss.ROWS,
}


# Tensors outside the blocks.
_VOCABULARY = {"token_embd.weight": "model.embed_tokens", "output_norm.weight": "model.norm"}


def read_architecture(metadata: Mapping[str, Any]) -> tuple[Architecture, Fields]:
    """The architecture of a file and its metadata.

    Raises:
        UnsupportedGGUFError: the architecture or one of the keys is not supported.
    """
    name = str(metadata.get("general.architecture"))
    fields = {
        key.removeprefix(f"{name}."): value
        for key, value in metadata.items()
        if key.startswith(f"{name}.")
    }
    rows = (row for own, row in ARCHITECTURES.items() if (row.family or own) == name)
    architecture = next((row for row in rows if row.applies(fields)), None)
    if architecture is None:
        known = ", ".join(sorted({row.family or own for own, row in ARCHITECTURES.items()}))
        raise UnsupportedGGUFError(
            f"The architecture '{name}' is not supported; supported: {known}."
        )
    unknown = sorted(fields.keys() - architecture.keys)
    if unknown:
        raise UnsupportedGGUFError(f"{name}: the setting '{unknown[0]}' is not supported.")
    for key, value in fields.items():
        if isinstance(value, list) and key != PATTERN:
            raise UnsupportedGGUFError(f"{name}: '{key}' with a value per layer is not supported.")
    return architecture, fields


def module_names(architecture: Architecture, fields: Fields, tensors: set[str]) -> dict[str, str]:
    """GGUF tensor -> MLX module, for all of `tensors` but the rotary table.

    Raises:
        UnsupportedGGUFError: a tensor is missing or not supported.
    """
    names = dict(_VOCABULARY)
    if architecture.requires_output:
        names["output.weight"] = "lm_head"
    for index in range(int(required(fields, "block_count"))):
        for source, module in architecture.block.items():
            names[f"blk.{index}.{source}.weight"] = f"model.layers.{index}.{module}"
            if source in architecture.biased:
                names[f"blk.{index}.{source}.bias"] = f"model.layers.{index}.{module}"
    if missing := sorted(names.keys() - tensors):
        raise UnsupportedGGUFError(f"The tensor '{missing[0]}' is missing.")
    if "output.weight" in tensors:
        names["output.weight"] = "lm_head"
    table = {"rope_freqs.weight"} if architecture.scales_rotary else set()
    if unknown := sorted(tensors - names.keys() - table):
        raise UnsupportedGGUFError(f"The tensor '{unknown[0]}' is not supported.")
    return names


def row_order(
    architecture: Architecture, head_dim: int, tensor: str, rows: int
) -> NDArray[np.intp] | None:
    """Index of the row in GGUF's `tensor` for each row in MLX; `None` if the order is the same.

    Within a head MLX has the first rows of all rotary pairs, then the second ones; GGUF has the
    two rows of each pair next to each other.

    Raises:
        UnsupportedGGUFError: the rows are not a multiple of the size of a head.
    """
    match = re.fullmatch(r"blk\.\d+\.(\w+)\.weight", tensor)
    if match is None or match[1] not in architecture.interleaved:
        return None
    if rows % head_dim:
        raise UnsupportedGGUFError(f"'{tensor}' has {rows} rows, which {head_dim} does not divide.")
    order = np.arange(rows, dtype=np.intp)
    return order.reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def is_norm(tensor: str) -> bool:
    return tensor.endswith("norm.weight")


def parameter(architecture: Architecture, tensor: str, module: str) -> tuple[str, str]:
    """The MLX module of a GGUF tensor, and the suffix of its parameter."""
    source, suffix = tensor.split(".")[-2:]
    if source in architecture.bare:
        module, _, suffix = module.rpartition(".")
    return module, suffix


def read_config(architecture: Architecture, fields: Fields) -> dict[str, Any]:
    """The model's `config.json`, without its vocabulary.

    Raises:
        UnsupportedGGUFError: a setting is missing, or has a value that mlx-lm cannot have.
    """
    if "expert_count" not in architecture.counts:
        require_value(fields, "expert_count", 0)
    key, setting = architecture.epsilon
    scales = {key: setting, **architecture.scales}
    return {
        "model_type": architecture.model_type,
        "architectures": [architecture.hub_class],
        **architecture.config(fields),
        **{setting: int(required(fields, key)) for key, setting in architecture.counts.items()},
        **{setting: float(required(fields, key)) for key, setting in scales.items()},
        **architecture.fixed,
    }
