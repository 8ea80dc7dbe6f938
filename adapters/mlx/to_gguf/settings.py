# pyright: basic
"""Convert a model's `config.json` to the metadata of a GGUF.

Uses the rows of `gguf/architectures` in reverse; settings without a row are rejected.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import Architecture, require_settings
from adapters.mlx.gguf.architectures.table import ARCHITECTURES
from adapters.mlx.gguf.rotary import scaling_of

Config = Mapping[str, Any]

INNER_TYPE = "text_config.model_type"
"""Setting of a flattened `config.json` with the type of the text model."""

_SAME_AS = {"mistral": "llama"}
"""Further model types -> their architecture."""

_OUTER = {
    "gemma3": "gemma3",
    "gemma4": "gemma4",
    "gemma4_unified": "gemma4",
    "mistral3": "llama",
}
"""Types with a text model in `text_config` -> its architecture."""
_INNER_TYPES = {"mistral3": (None, "llama", "mistral")}
"""Types of the text model that are supported, where an outer type has several."""
_OUTER_PREFIX = "language_model."

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1, 1.0),
    "rope_traditional": (None, False),
    "use_sliding_window": (None, False),
}
"""Settings without a metadata key, and the values that do not change the computation."""


_YARN_KEYS = frozenset(
    {"factor", "original_max_position_embeddings", "rope_type", "type", "rope_theta", "truncate"}
)
"""Settings of YaRN that are written, and one that mlx-lm does not read."""
_YARN_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}
"""Settings without a metadata key, and the values that both engines have."""


def architecture_of(config: Config) -> tuple[str, Architecture]:
    """`general.architecture` and the row of the model.

    Raises:
        UnsupportedGGUFError: the type of the model or one of its settings is not supported.
    """
    kind = config.get("model_type")
    rows = {name: row for name, row in ARCHITECTURES.items() if row.is_row_of(config)}
    names = {row.model_type: name for name, row in rows.items()} | _SAME_AS | _OUTER
    if kind not in names:
        known = ", ".join(sorted(names))
        raise UnsupportedGGUFError(f"The model type '{kind}' is not supported, only {known}.")
    name = names[kind]
    row = ARCHITECTURES[name]
    if kind in _OUTER:
        row = replace(row, prefix=_OUTER_PREFIX)
        inner, supported = config.get(INNER_TYPE), _INNER_TYPES.get(kind)
        if supported is not None and inner not in supported:
            raise UnsupportedGGUFError(f"The text model '{inner}' of '{kind}' is not supported.")
    read = {*row.fixed} | ({"partial_rotary_factor"} if row.partial_rotary else set())
    for key, neutral in _NEUTRAL.items():
        if key not in read and config.get(key) not in neutral:
            raise UnsupportedGGUFError(f"'{key}' = {config[key]} is not supported.")
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key) is not None and key not in row.keys:
            raise UnsupportedGGUFError(f"'{key}' = {config[key]} is not supported.")
    has_window = "attention.sliding_window" in row.keys
    if not has_window and _has_window(config):
        raise UnsupportedGGUFError("'sliding_window' is not supported in this architecture.")
    return row.family or name, row


def flattened(config: Config) -> Config:
    """The settings of the language model, which multimodal classes have in `text_config`."""
    inner = config.get("text_config") or {}
    types = {"model_type": config.get("model_type"), INNER_TYPE: inner.get("model_type")}
    return {**config, **inner, **types}


def settings(config: Config) -> dict[str, Any]:
    """Metadata with keys without the prefix of the architecture; `config` has its `defaults`.

    Raises:
        UnsupportedGGUFError: a value is missing or not supported.
    """
    _, architecture = architecture_of(config)
    config = architecture.normalized(config)
    epsilon, setting = architecture.epsilon
    heads = int(_required(config, "num_attention_heads"))
    width = int(_required(config, "hidden_size"))
    theta = config.get("rope_theta")
    if theta is None:  # Newer files have it in `rope_parameters`.
        theta = _required(config.get("rope_parameters") or {}, "rope_theta")
    metadata: dict[str, Any] = {
        "block_count": int(_required(config, "num_hidden_layers")),
        "context_length": int(_required(config, "max_position_embeddings")),
        "embedding_length": width,
        "feed_forward_length": int(_required(config, "intermediate_size")),
        "attention.head_count": heads,
        "attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        epsilon: float(_required(config, setting)),
        "attention.key_length": head_dim(config),
        "attention.value_length": head_dim(config),
        "rope.dimension_count": int(head_dim(config) * (config.get("partial_rotary_factor") or 1)),
        "rope.freq_base": float(theta),
    }
    per_layer = {n: of(metadata["block_count"]) for n, of in architecture.per_layer.items()}
    require_settings(config, {**architecture.fixed, **per_layer})
    metadata |= {key: int(_required(config, name)) for key, name in architecture.counts.items()}
    metadata |= {key: float(_required(config, name)) for key, name in architecture.scales.items()}
    metadata |= {key: bool(config.get(name)) for key, name in architecture.flags.items()}
    metadata |= architecture.constants
    return metadata | _scaling(config, architecture) | dict(architecture.settings(config))


def head_dim(config: Config) -> int:
    default = int(config["hidden_size"]) // int(config["num_attention_heads"])
    return int(config.get("head_dim") or default)


def _scaling(config: Config, architecture: Architecture) -> dict[str, Any]:
    scaling = scaling_of(config)
    if scaling and not architecture.scales_rotary:
        raise UnsupportedGGUFError(
            f"mlx-lm has no rotary scaling in '{architecture.model_type}', so that "
            f"'{scaling['rope_type']}' is not supported."
        )
    match scaling.get("rope_type", "none"):
        case "none" | "llama3":  # Llama 3 has a tensor for it.
            return {}
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
        case "yarn":
            extra = {
                key
                for key, value in scaling.items()
                if key not in _YARN_KEYS | architecture.scaling_settings
                and value != _YARN_DEFAULTS.get(key)
            }
            if unknown := sorted(extra):
                raise UnsupportedGGUFError(f"'{unknown[0]}' of a YaRN scaling is not supported.")
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(scaling["factor"]),
                "rope.scaling.original_context_length": int(
                    _required(scaling, "original_max_position_embeddings")
                ),
            }
        case other:
            raise UnsupportedGGUFError(f"The rotary scaling '{other}' is not supported.")


def _has_window(config: Config) -> bool:
    """True if layers have sliding windows: Qwen's files name one and switch it off."""
    return config.get("sliding_window") is not None and config.get("use_sliding_window", True)


def _required(values: Config, key: str) -> Any:
    if values.get(key) is None:
        raise UnsupportedGGUFError(f"The setting '{key}' is missing.")
    return values[key]
