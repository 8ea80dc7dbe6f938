"""Rotary settings as transformers 5 writes them, for models of mlx-lm that read the older names.

It writes `"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", …}`, for some models an
object for each kind of layer, and no `rope_theta`. Most models of mlx-lm take a default base then,
and their text is another one without a word.
"""

# pyright: basic
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

from mlx_lm import utils as mlx_lm_utils

_READ_FROM = {
    "rope_theta": "rope_theta",
    "rotary_emb_base": "rope_theta",
    "partial_rotary_factor": "partial_rotary_factor",
    "rotary_pct": "partial_rotary_factor",
    "original_max_position_embeddings": "original_max_position_embeddings",
}
"""Older names -> names in `rope_parameters`."""
_LOCAL = ("rope_local_base_freq", "rope_local_theta", "swa_rope_theta")
"""Names of mlx-lm's models for the base of layers with a sliding window."""


def classes_of(config: dict[str, Any]) -> tuple[Any, Any]:
    """Return mlx-lm's classes for `config`, to which the older names of its settings are added.

    Raises:
        ValueError: mlx-lm has no such model, or a model without a name for a setting.
    """
    model, arguments = mlx_lm_utils._get_classes(config)
    inner = config.get("text_config")
    if isinstance(inner, dict):
        config["text_config"] = inner | older_names(inner, _names_of_texts(inner, arguments))
    config |= older_names(config, _names_read(sys.modules[arguments.__module__]))
    return model, arguments


def older_names(config: Mapping[str, Any], read: frozenset[str]) -> dict[str, Any]:
    """Return the settings that stand in `rope_parameters` only, by the names that are `read`.

    Raises:
        ValueError: layers of another kind have another base, and no name is read for it.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_parameters" in read:
        return {}
    kinds = {kind: own for kind, own in rope.items() if isinstance(own, dict)}
    found = _older(kinds.get("full_attention", rope), read)
    for kind, own in kinds.items():
        if own.get("rope_theta") != found.get("rope_theta"):
            found |= {_local_name(kind, read): own.get("rope_theta")}
    return {name: value for name, value in found.items() if config.get(name) is None}


def _older(rope: Mapping[str, Any], read: frozenset[str]) -> dict[str, Any]:
    found = {old: rope[new] for old, new in _READ_FROM.items() if old in read and new in rope}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    return found | {"rope_scaling": None if kind == "default" else {"type": kind, **rope}}


def _local_name(kind: str, read: frozenset[str]) -> str:
    names = [name for name in _LOCAL if name in read]
    if kind != "sliding_attention" or not names:
        raise ValueError(f"its rope_parameters of {kind} are not read by mlx-lm's model")
    return names[0]


def _names_of_texts(config: dict[str, Any], outer: type) -> frozenset[str]:
    """Return the settings read of a `text_config`; where its type has no module of its own, those
    of the outer arguments' module, and of the models that it imports."""
    try:
        return _names_read(sys.modules[mlx_lm_utils._get_classes(config)[1].__module__])
    except (KeyError, ValueError):
        module = sys.modules[outer.__module__]
    imported = [each for each in vars(module).values() if isinstance(each, ModuleType)]
    models = [each for each in imported if each.__name__.startswith("mlx_lm.models.")]
    return frozenset().union(*map(_names_read, [module, *models]))


def _names_read(module: ModuleType) -> frozenset[str]:
    """Return the settings of all arguments in the module of a model."""
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    return frozenset(field.name for kind in kinds if is_dataclass(kind) for field in fields(kind))
