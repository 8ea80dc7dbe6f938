# pyright: basic
"""A model's `config.json` as the metadata of a GGUF.

The rows of `gguf/architectures.py` are read the other way; what none of them has is refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures import ARCHITECTURES, Architecture

Config = Mapping[str, Any]

_ALSO = {"mistral": "llama"}
"""model_type -> the architecture that it is."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
    "rope_traditional": (None, False),
    "use_sliding_window": (None, False),
}
"""What changes a model's answers and has no place in these architectures, unless it is so."""


def architecture_of(config: Config) -> tuple[str, Architecture]:
    """
    Raises:
        UnsupportedGGUFError: no row for the model's type, or it is more than its row says.
    """
    kind = config.get("model_type")
    names = {row.model_type: name for name, row in ARCHITECTURES.items()} | _ALSO
    if kind not in names:
        known = ", ".join(sorted(names))
        raise UnsupportedGGUFError(f"The model type '{kind}' is not supported, only {known}.")
    for key, neutral in _NEUTRAL.items():
        if config.get(key) not in neutral:
            raise UnsupportedGGUFError(f"'{key}' = {config[key]} is not supported.")
    name = names[kind]
    if name == "llama" and config.get("sliding_window") is not None:
        raise UnsupportedGGUFError("'sliding_window' is not supported in this architecture.")
    return name, ARCHITECTURES[name]


def settings(config: Config) -> dict[str, int | float | str]:
    """GGUF's keys without the architecture's prefix.

    Raises:
        UnsupportedGGUFError: a value is missing, or cannot be said there.
    """
    heads = int(_required(config, "num_attention_heads"))
    width = int(_required(config, "hidden_size"))
    found: dict[str, int | float | str] = {
        "block_count": int(_required(config, "num_hidden_layers")),
        "context_length": int(_required(config, "max_position_embeddings")),
        "embedding_length": width,
        "feed_forward_length": int(_required(config, "intermediate_size")),
        "attention.head_count": heads,
        "attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        "attention.layer_norm_rms_epsilon": float(_required(config, "rms_norm_eps")),
        "attention.key_length": head_dim(config),
        "attention.value_length": head_dim(config),
        "rope.dimension_count": head_dim(config),
        "rope.freq_base": float(_rotary(config, "rope_theta")),
    }
    return found | _scaling(config) | _windows(config)


def head_dim(config: Config) -> int:
    own = config.get("head_dim")
    return int(own or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def scaling_of(config: Config) -> Mapping[str, Any]:
    """Its rotary scaling; empty where it has none."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = found.get("rope_type") or found.get("type") or "default"
    return {} if kind == "default" else {**found, "rope_type": kind}


def _rotary(config: Config, key: str) -> Any:
    """Newer files have it one level down."""
    inner = config.get("rope_parameters") or {}
    return config[key] if config.get(key) is not None else _required(inner, key)


def _scaling(config: Config) -> dict[str, int | float | str]:
    scaling = scaling_of(config)
    writer = _SCALINGS.get(scaling.get("rope_type", "none"))
    if writer is None:
        raise UnsupportedGGUFError(f"The rotary scaling '{scaling['rope_type']}' is not supported.")
    return writer(scaling)


def _linear(scaling: Config) -> dict[str, int | float | str]:
    return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}


def _yarn(scaling: Config) -> dict[str, int | float | str]:
    extra = scaling.keys() - {"factor", "original_max_position_embeddings", "rope_type", "type"}
    if odd := sorted(extra - {"rope_theta"}):
        raise UnsupportedGGUFError(f"'{odd[0]}' of a YaRN scaling is not supported.")
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(scaling["factor"]),
        "rope.scaling.original_context_length": int(
            _required(scaling, "original_max_position_embeddings")
        ),
    }


_SCALINGS: dict[str, Callable[[Config], dict[str, int | float | str]]] = {
    "none": lambda _: {},
    "llama3": lambda _: {},  # A tensor of its own says it.
    "linear": _linear,
    "yarn": _yarn,
}


def _windows(config: Config) -> dict[str, int | float | str]:
    """Gemma 3 alone looks back over a window in most of its layers."""
    if config["model_type"] != "gemma3_text":
        return {}
    if config.get("sliding_window_pattern", 6) != 6:
        raise UnsupportedGGUFError("'sliding_window_pattern' is another one than Gemma 3's.")
    _require_scale(config)
    return {
        "attention.sliding_window": int(_required(config, "sliding_window")),
        "rope.freq_base_swa": float(_required(config, "rope_local_base_freq")),
    }


def _require_scale(config: Config) -> None:
    """The file cannot say by what attention is scaled: llama.cpp knows it by the blocks."""
    large = int(config["num_hidden_layers"]) == 62
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    expected = width // heads if large else head_dim(config)
    if config.get("query_pre_attn_scalar", expected) != expected:
        raise UnsupportedGGUFError("'query_pre_attn_scalar' is another one than Gemma 3's.")


def _required(values: Config, key: str) -> Any:
    if values.get(key) is None:
        raise UnsupportedGGUFError(f"The setting '{key}' is missing.")
    return values[key]
