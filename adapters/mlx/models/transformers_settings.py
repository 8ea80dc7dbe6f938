"""Settings of a `config.json` that mlx-lm's code reads otherwise than transformers does.

transformers gives some settings other names than mlx-lm (`num_local_experts` for `num_experts`),
leaves out others, and has defaults of its own. Its class of the model's type knows them all, and
needs no torch. A setting that the code of mlx-lm does not read at all has transformers' default in
it; where the model has another value, its card says so.
"""

# pyright: basic
import copy
import inspect
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.rope_utils import SuScaledRoPE
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from adapters.mlx.models.memory_estimate import read_tensors

logger = logging.getLogger(__name__)
_MODELS = ("mlx_lm.models.", "mlx_vlm.models.")
_NOT_FILLED = ("rope_", "tie_", "partial_rotary", "quantization", "model_type")
"""Beginnings of names that are decided elsewhere."""
_ACTIVATIONS = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "mlp_hidden_act",
    "mamba_hidden_act",
)
_KINDS = {"swish": "silu", "gelu_new": "gelu", "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu"}
"""Activations that differ by roundings only, by the name of one of them."""
_EPSILONS = frozenset({"layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "rms_norm_eps"})
"""Names of one constant: code that reads one of them has it."""
_COUNT = (
    *_ACTIVATIONS,
    *_EPSILONS,
    "attn_logit_softcapping",
    "clip_qkv",
    "final_logit_softcapping",
    "no_rope_layers",
    "norm_topk_prob",
    "rope_interleave",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "swiglu_limit",
    "use_bidirectional_attention",
)
"""Settings that change what a model computes, and no shape of its weights."""
_ROPE_NAMES = {
    "rope_theta": ("rope_theta", "rotary_emb_base", "rope_global_base_freq"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct", "rotary_dim"),
}
"""Rotary settings, and the names that code may read them by."""
_COMMENT, _BLOCK = re.compile(r"#.*"), re.compile(r"^(?=class |def |@)", re.MULTILINE)
_NAME = re.compile(r"\.([a-z_]\w*)|[\"']([a-z_]\w*)[\"']")
"""Attributes and keys. Not `ast`, which fails in Python 3.11 where two threads parse at once."""
_TIED = "tie_word_embeddings"
_LAYERS = {"linear_attention": "mamba", "full_attention": "attention"}
"""Kinds of layers -> their older names."""
_NAMES = {"n_ctx": "n_positions"}
"""Names of mlx-lm that transformers does not know -> its own."""
_NULLS = {"position_embedding_type": "nope"}
"""Values that transformers writes as `null`, by the word that mlx-lm knows."""
_OF_FULL_LAYERS = {
    "head_dim": "global_head_dim",
    "num_key_value_heads": "num_global_key_value_heads",
}
"""Settings of layers of full attention -> their older names."""
_PATTERNS = ("sliding_window_pattern", "full_attention_interval")
"""Names of mlx-lm's models for the distance between two layers of full attention."""


def add_as_transformers_reads(
    config: dict[str, Any],
    read: Mapping[str, bool],
    read_of_texts: Mapping[str, bool],
    module: ModuleType,
) -> None:
    """Add transformers' defaults to `config` and its `text_config`, for the code of `module`.

    Raises:
        ValueError: its kinds of layers have no form that the code reads.
    """
    config |= {name: _decoded(value) for name, value in config.items()}
    known = _own_config(config)
    if known is None:
        return
    saved = "transformers_version" in config
    _add_defaults(config, known, read, module, written_there=saved)
    inner = known.get_text_config()
    if isinstance(texts := config.get("text_config"), dict) and _is_config(inner):
        config["text_config"] = texts = dict(texts)
        _add_defaults(texts, inner, read_of_texts, module, written_there=saved)


def unread(config: Mapping[str, Any], module: ModuleType) -> tuple[str, ...]:
    """Return a sentence for each setting of a `config.json` that counts and that the code of
    `module` leaves out."""
    known = _own_config(config)
    if known is None:
        return ()
    inner, texts = known.get_text_config(), config.get("text_config")
    found = [*_unread(config, known, module)]
    if isinstance(texts, dict) and _is_config(inner):
        found += _unread(texts, inner, module)
    return tuple(dict.fromkeys(found))


def _is_config(texts: Any) -> TypeGuard[PreTrainedConfig]:
    """Pixtral's class is that of its encoder, and has a `dict` there."""
    return isinstance(texts, PreTrainedConfig)


def _decoded(value: Any) -> Any:
    """Return a value with the numbers that JSON has not: `{"__float__": "Infinity"}`."""
    match value:
        case {"__float__": str(number)}:
            return float(number)
        case dict():
            return {name: _decoded(each) for name, each in value.items()}
        case list():
            return [_decoded(each) for each in value]
    return value


def _own_config(config: Mapping[str, Any]) -> PreTrainedConfig | None:
    """Return transformers' reading of a `config.json`; `None` if it does not know the type, or the
    file is for code of its authors."""
    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING or "auto_map" in config:
        return None
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return CONFIG_MAPPING[kind].from_dict(copy.deepcopy(dict(config)))
    except Exception as error:
        logger.debug("transformers does not read the config.json: %s", error)
        return None
    finally:
        transformers_logging.set_verbosity(level)


def _add_defaults(
    config: dict[str, Any],
    known: PreTrainedConfig,
    read: Mapping[str, bool],
    module: ModuleType,
    *,
    written_there: bool,
) -> None:
    """Add the settings that mlx-lm reads and that stand in `config` by another name, or not at all,
    as transformers reads them; `written_there`: transformers wrote it, so that what it leaves out
    has its default, not mlx-lm's."""
    for name, has_default in read.items():
        is_missing = name not in config and not name.startswith(_NOT_FILLED)
        if is_missing and (written_there or not has_default):
            value = _value_of(known, name)
            config |= {name: value} if value is not None else {}
    config |= {name: own for name, own in _NULLS.items() if config.get(name, own) is None}
    for own in (config.get("per_layer_config") or {}).values():
        older = {_OF_FULL_LAYERS.get(name, ""): value for name, value in own.items()}
        config |= {name: value for name, value in older.items() if name in read}
    if isinstance(kinds := config.get("layer_types"), list):
        _write_layer_types(config, kinds, read, names_used(module))


def _value_of(known: PreTrainedConfig, name: str) -> bool | float | str | list[Any] | None:
    """Return a setting, the size of a head too where it follows from the width."""
    texts = known.get_text_config()
    try:
        name = _NAMES.get(name, name)
        value = getattr(known, name, getattr(texts, name, None))
        if value is None and name == "head_dim":
            value = texts.hidden_size // texts.num_attention_heads
    except Exception:
        # Settings that differ between layers; missing ones.
        return None
    return value if isinstance(value, (bool, int, float, str, list)) and value != [] else None


def _write_layer_types(
    config: dict[str, Any], kinds: list[str], read: Mapping[str, bool], used: frozenset[str]
) -> None:
    """Write the kinds of layers by their older names, or as a pattern, for code that reads those.

    Raises:
        ValueError: they have no such pattern.
    """
    older = {new: old for new, old in _LAYERS.items() if old in used and new not in used}
    config["layer_types"] = [older.get(kind, kind) for kind in kinds]
    name = next((name for name in _PATTERNS if name in read), None)
    if "layer_types" in used or name is None or isinstance(config.get(name), str):
        return
    full = [index + 1 for index, kind in enumerate(kinds) if kind == "full_attention"]
    every = full[0] if full else len(kinds) + 1
    if full != list(range(every, len(kinds) + 1, every)):
        raise ValueError("its layer_types have no period, and the model's code reads no others")
    config[name] = every


def with_output(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `tie_word_embeddings`, and the `text_config` with it, as the weights have it where
    `config` does not say: an output matrix of its own is used."""
    texts = config.get("text_config")
    inner = texts.get(_TIED) if isinstance(texts, dict) else None
    outer = config.get(_TIED)
    has_matrix = any(name.endswith("lm_head.weight") for name in read_tensors(path))
    tied = (outer, inner) != (None, None) if not has_matrix else bool(outer or inner)
    changed: dict[str, Any] = {_TIED: False} if has_matrix and outer is None and not inner else {}
    if isinstance(texts, dict) and (inner is None or (not has_matrix and outer)):
        changed["text_config"] = {**texts, _TIED: tied}
    return changed


def _unread(
    config: Mapping[str, Any], known: PreTrainedConfig, module: ModuleType
) -> Iterator[str]:
    layers = getattr(known, "num_hidden_layers", None)
    default = type(known)(**({"num_hidden_layers": layers} if layers else {}))
    used = names_used(module)
    used |= _EPSILONS if used & _EPSILONS else frozenset()
    for name in _COUNT:
        if config.get(name) is not None and hasattr(default, name) and name not in used:
            # As transformers reads it: an empty list may stand for the default.
            yield from _other(name, getattr(known, name, None), getattr(default, name))
    used = names_used(module, by_layers=True)
    if "rope_parameters" not in used:
        yield from _unread_rope(config, default, used)


def _unread_rope(
    config: Mapping[str, Any], default: PreTrainedConfig, used: frozenset[str]
) -> Iterator[str]:
    usual = getattr(default, "rope_parameters", None)
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    if not isinstance(usual, dict) or any(isinstance(own, dict) for own in rope.values()):
        return
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if "rope_scaling" not in used and kind not in ("default", "mrope"):
        yield f"Its rope_scaling of type {kind!r} has no effect in mlx-lm's code."
    for name, names in _ROPE_NAMES.items():
        own = config.get(name, rope.get(name))
        if own is not None and name in usual and used.isdisjoint(names):
            yield from _other(name, own, usual[name])


def _other(name: str, value: Any, usual: Any) -> Iterator[str]:
    if _KINDS.get(str(value), value) != _KINDS.get(str(usual), usual):
        yield f"Its {name} {value!r} has no effect: mlx-lm's code has {usual!r}."


def unread_window(config: Mapping[str, Any], model: Any) -> int | None:
    """Return the tokens of a sliding window that a loaded model has by its `config.json` and not in
    its caches."""
    known = _own_config(config)
    if known is None:
        return None
    texts = known.get_text_config()
    if not _is_config(texts):
        return None
    window = getattr(texts, "sliding_window", None) if "sliding_window" in _fields(texts) else None
    kinds = getattr(texts, "layer_types", None) or ["sliding_attention"]
    if not window or "sliding_attention" not in kinds:
        return None
    has_window = any(getattr(cache, "max_size", None) for cache in make_prompt_cache(model))
    return None if has_window or window >= texts.max_position_embeddings else window


def unread_short_factors(config: Mapping[str, Any], model: Any) -> int | None:
    """Return the tokens up to which `config.json` has rotary factors of their own (`longrope`, of
    Phi 3.5 and MiniCPM 3) where a loaded model has those of longer texts only."""
    texts = {**config, **(config.get("text_config") or {})}
    rope = texts.get("rope_scaling") or texts.get("rope_parameters") or {}
    has_long = any(isinstance(layer, SuScaledRoPE) for layer in model.modules())
    if not has_long or rope.get("short_factor") in (None, rope.get("long_factor")):
        return None
    limit = "original_max_position_embeddings"
    return rope.get(limit) or texts.get(limit)


def _fields(known: PreTrainedConfig) -> frozenset[str]:
    """Return the settings of the class; a file may have others."""
    return frozenset(type(known)().to_dict())


@cache
def names_used(module: ModuleType, *, by_layers: bool = False) -> frozenset[str]:
    """Return the attributes and keys in the code of a model and of those that it is made from;
    `by_layers`: without the classes of its settings."""
    sources = [_COMMENT.sub("", inspect.getsource(part)) for part in _parts(module)]
    blocks = [block for source in sources for block in _BLOCK.split(source)]
    read = [block for block in blocks if not (by_layers and "(BaseModel" in block.split(":")[0])]
    return frozenset(name for block in read for found in _NAME.findall(block) for name in found)


def _parts(module: ModuleType) -> set[ModuleType]:
    """Return the module and those of mlx-lm that it imports models or layers from."""
    found, new = {module}, [module]
    while new:
        values = vars(new.pop()).values()
        names = {
            value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
            for value in values
        }
        more = {sys.modules[name] for name in names if str(name).startswith(_MODELS)} - found
        found |= more
        new += more
    return found
