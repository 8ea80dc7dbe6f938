# pyright: basic
"""The architectures by name, and what a conversion asks of one."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures import (
    cohere,
    deepseek,
    gemma,
    glm,
    gpt_oss,
    lfm,
    llama,
    nemotron,
    olmo,
    qwen,
)
from adapters.mlx.gguf.architectures.row import (
    PREDICTORS,
    Architecture,
    Fields,
    head_size,
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
    **glm.ROWS,
    **deepseek.ROWS,
    **lfm.ROWS,
    **nemotron.ROWS,
    **gpt_oss.ROWS,
}


@dataclass(frozen=True)
class Place:
    """The parameter in MLX of a tensor of a GGUF."""

    source: str
    """Name of the tensor in its block: `attn_q`."""
    module: str
    """`model.layers.0.self_attn.q_proj`"""
    suffix: str = "weight"


def read_architecture(metadata: Mapping[str, Any]) -> tuple[Architecture, Fields]:
    """The architecture of a file and its metadata; `block_count` is without `PREDICTORS`.

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
        if isinstance(value, list) and key not in architecture.lists:
            raise UnsupportedGGUFError(f"{name}: '{key}' with a value per layer is not supported.")
    if PREDICTORS in fields:
        blocks = int(required(fields, "block_count")) - int(fields[PREDICTORS])
        fields |= {"block_count": blocks}
    return architecture, fields


def left_out(architecture: Architecture, fields: Fields, tensors: Set[str]) -> list[str]:
    """The tensors that take no part in an answer, which MLX has no place for: those of the layers
    that predict several tokens, and the `unused` ones of others."""
    last = int(required(fields, "block_count"))
    layers = range(last, last + int(fields.get(PREDICTORS, 0)))
    predictors = {n for i in layers for n in tensors if n.startswith(f"blk.{i}.")}
    unused = {
        f"blk.{i}.{source}.weight" for i in range(last) for source in architecture.unused(fields, i)
    }
    return sorted(predictors | unused & tensors)


def traits(architecture: Architecture, tensors: Set[str]) -> set[str]:
    """The settings of `optional` that are true for a file with these tensors."""
    return {
        setting
        for source, setting in architecture.optional.items()
        if any(f".{source}." in name for name in tensors)
    }


def places(
    architecture: Architecture, fields: Fields, traits: Set[str], *, tied: bool
) -> dict[str, Place]:
    """All tensors of a GGUF, but for the rotary table, and their places in MLX.

    `traits`: the settings of `optional` that are true. `tied`: the embedding is the output matrix
    too, where both engines can use it so.
    """
    prefix, (norm, module) = architecture.prefix, architecture.final_norm
    body = f"{prefix}{architecture.body}"
    found = {
        "token_embd.weight": Place("token_embd", f"{body}.{architecture.embedding}"),
        f"{norm}.weight": Place(norm, prefix + module),
    }
    for source, module in architecture.outside(fields).items():
        found[f"{source}.weight"] = Place(source, f"{body}.{module}")
    if architecture.requires_output or not (tied or architecture.forbids_output):
        found["output.weight"] = Place("output", f"{prefix}lm_head")
    for index in range(int(required(fields, "block_count"))):
        block = {**architecture.block, **architecture.varied(fields, index)}
        absent = {name for name, setting in architecture.optional.items() if setting not in traits}
        own = {source: module for source, module in block.items() if source not in absent}
        found |= _block_places(architecture, own, index)
    return found


def _block_places(
    architecture: Architecture, block: Mapping[str, str], index: int
) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for source, module in block.items():
        name = f"blk.{index}.{source}"
        path = f"{architecture.prefix}{architecture.body}.layers.{index}.{module}"
        owner, _, own = path.rpartition(".")
        is_bare = source in architecture.bare | architecture.precise
        place = Place(source, owner, own) if is_bare else Place(source, path)
        suffix = ".bias" if source in architecture.precise else ".weight"
        found[name + architecture.suffixes.get(source, suffix)] = place
        if source in architecture.biased:
            found[f"{name}.bias"] = Place(source, path, "bias")
    return found


def require_tensors(architecture: Architecture, expected: Set[str], tensors: Set[str]) -> None:
    """Reject a file with other tensors than `expected`.

    Raises:
        UnsupportedGGUFError: a tensor is missing or not supported.
    """
    table = {"rope_freqs.weight"}
    needed = expected | table if architecture.requires_table else expected
    if missing := sorted(needed - tensors):
        raise UnsupportedGGUFError(f"The tensor '{missing[0]}' is missing.")
    known = needed | table if architecture.scales_rotary else needed
    if unknown := sorted(tensors - known):
        raise UnsupportedGGUFError(f"The tensor '{unknown[0]}' is not supported.")


def row_order(
    architecture: Architecture, fields: Fields, place: Place, rows: int
) -> NDArray[np.intp] | None:
    """Index of the row in GGUF for each row in MLX; `None` if the order is the same.

    Within a head MLX has the first rows of all rotary pairs, then the second ones; GGUF has the
    two rows of each pair next to each other.

    Raises:
        UnsupportedGGUFError: the rows are not a multiple of the size of a head.
    """
    if place.source not in architecture.interleaved:
        return architecture.row_order(fields, place.source, rows)
    size = head_size(fields)
    if rows % size:
        raise UnsupportedGGUFError(f"{rows} rows of '{place.source}' are no heads of {size}.")
    order = np.arange(rows, dtype=np.intp)
    return order.reshape(-1, size // 2, 2).swapaxes(1, 2).reshape(-1)


def added_axis(architecture: Architecture, place: Place) -> int | None:
    """Place of an axis of length one that the array in MLX has in addition."""
    return architecture.added_axes.get(place.source) if place.suffix == "weight" else None


def offset(architecture: Architecture, place: Place) -> float:
    """The values of a GGUF minus those of MLX."""
    return architecture.norm_offset if place.source.endswith("norm") else 0.0


def read_config(architecture: Architecture, fields: Fields, traits: Set[str]) -> dict[str, Any]:
    """The model's `config.json`, without its vocabulary; `traits` as for `places`.

    Raises:
        UnsupportedGGUFError: a setting is missing, or has a value that mlx-lm cannot have.
    """
    if "expert_count" not in architecture.counts.keys() | architecture.other_keys:
        require_value(fields, "expert_count", 0)
    for key, value in architecture.constants.items():
        require_value(fields, key, value)
    key, setting = architecture.epsilon
    scales = {key: setting, **architecture.scales}
    own = architecture.config(fields)
    if architecture.partial_rotary:
        own["partial_rotary_factor"] = required(fields, "rope.dimension_count") / own["head_dim"]
    else:
        require_value(fields, "rope.dimension_count", own[architecture.rotated])
    return {
        "model_type": architecture.model_type,
        "architectures": [architecture.hub_class],
        **own,
        **{setting: int(required(fields, key)) for key, setting in architecture.counts.items()},
        **{setting: float(required(fields, key)) for key, setting in scales.items()},
        **{setting: bool(fields.get(key)) for key, setting in architecture.flags.items()},
        **{setting: setting in traits for setting in architecture.optional.values()},
        **architecture.fixed,
        **{name: of(own["num_hidden_layers"]) for name, of in architecture.per_layer.items()},
    }


_OUTSIDE = ("model_type", "architectures", "tie_word_embeddings", "vocab_size", "quantization")


def nested(architecture: Architecture, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The finished `config` in the form that the class of mlx-lm reads."""
    if architecture.nested is None:
        return config
    outside = {
        key: value for key, value in config.items() if key in _OUTSIDE or key.endswith("_token_id")
    }
    inside = {key: value for key, value in config.items() if key not in outside}
    own = {"model_type": architecture.nested, "vocab_size": config["vocab_size"]}
    return {**outside, "text_config": own | inside}
