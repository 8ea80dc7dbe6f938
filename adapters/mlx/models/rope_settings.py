"""Rotary settings as transformers 5 writes them, for models that read the older names.

It writes `"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", …}`, for some models an
object for each kind of layer, and no `rope_theta`. Most models of mlx-lm and mlx-vlm take a default
then, and their text is another one without a word.
"""

# pyright: basic
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import ModuleType
from typing import Any

from mlx_lm import utils as mlx_lm_utils

from adapters.mlx.models.transformers_settings import add_as_transformers_reads

_READ_FROM = {
    "rope_theta": "rope_theta",
    "rotary_emb_base": "rope_theta",
    "rope_global_base_freq": "rope_theta",
    "partial_rotary_factor": "partial_rotary_factor",
    "rotary_pct": "partial_rotary_factor",
    "original_max_position_embeddings": "original_max_position_embeddings",
}
"""Older names -> names in `rope_parameters`."""
_LOCAL = ("rope_local_base_freq", "rope_local_theta", "swa_rope_theta")
"""Names of mlx-lm's models for the base of layers with a sliding window."""


Names = Mapping[str, bool]
"""The settings that a model reads, and whether they have a default."""


def classes_of(config: dict[str, Any]) -> tuple[Any, Any]:
    """Return mlx-lm's classes for `config`, to which the older names of its settings are added.

    Raises:
        ValueError: mlx-lm has no such model, or no name for a setting that counts.
    """
    model, arguments = mlx_lm_utils._get_classes(config)
    outer = sys.modules[arguments.__module__]
    read, read_of_texts = names_read(outer), _names_of_texts(config.get("text_config"), outer)
    add_as_transformers_reads(config, read, read_of_texts, outer)
    add_older_names(config, read, read_of_texts)
    return model, arguments


def add_older_names(config: dict[str, Any], read: Names, read_of_texts: Names) -> None:
    """Add the settings that stand in `rope_parameters` only by the names that the model reads.

    Raises:
        ValueError: layers of another kind have another base, and no name is read for it.
    """
    inner = config.get("text_config")
    if isinstance(inner, dict):
        config["text_config"] = inner | _missing(inner, read_of_texts)
    config |= _missing(config, read)


def names_read(*modules: ModuleType) -> Names:
    """Return the settings of all configurations in the modules of a model."""
    kinds = [kind for each in modules for kind in vars(each).values() if isinstance(kind, type)]
    return names_of(*[kind for kind in kinds if is_dataclass(kind)])


def names_of(*kinds: type) -> Names:
    """Return the settings of configurations, which are dataclasses."""
    read = [field for kind in kinds for field in fields(kind)]
    required = {field.name for field in read if field.default is field.default_factory is MISSING}
    return {field.name: field.name not in required for field in read}


def _names_of_texts(config: Any, outer: ModuleType) -> Names:
    """Return the settings read of a `text_config`; where its type has no module of its own, also
    those of the models that the outer module imports."""
    if not isinstance(config, dict):
        return {}
    try:
        inner = [sys.modules[mlx_lm_utils._get_classes(config)[1].__module__]]
    except (KeyError, ValueError):
        imported = [each for each in vars(outer).values() if isinstance(each, ModuleType)]
        inner = [each for each in imported if each.__name__.startswith("mlx_lm.models.")]
    return names_read(outer, *inner)


def _missing(config: Mapping[str, Any], read: Names) -> dict[str, Any]:
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_parameters" in read:
        return {}
    if isinstance(inside := config.get("attn_config"), dict):
        # DBRX: transformers leaves the default there, beside the model's own base.
        return {"attn_config": inside | {"rope_theta": rope.get("rope_theta")}}
    kinds = {kind: own for kind, own in rope.items() if isinstance(own, dict)}
    main = kinds.get("full_attention", rope)
    found = _older(main, read)
    for kind, own in kinds.items():
        if kind != "full_attention" and own.get("rope_type", "default") != "default":
            raise ValueError(f"the rope_type of {kind} is not read by the model's code")
        if own.get("rope_theta") != main.get("rope_theta"):
            found |= {_local_name(kind, read): own.get("rope_theta")}
    return {name: value for name, value in found.items() if config.get(name) is None}


def _older(rope: Mapping[str, Any], read: Names) -> dict[str, Any]:
    found = {old: rope[new] for old, new in _READ_FROM.items() if old in read and new in rope}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default" or "mrope_section" in rope:
        found["rope_scaling"] = {"type": kind, **rope}
    elif not read.get("rope_scaling", True):
        found["rope_scaling"] = None
    return found


def _local_name(kind: str, read: Names) -> str:
    names = [name for name in _LOCAL if name in read]
    if kind != "sliding_attention" or not names:
        raise ValueError(f"its rope_parameters of {kind} are not read by the model's code")
    return names[0]
