"""Detailed descriptions of MLX models, read from their files without importing mlx.

The keys of facts are those of a GGUF's metadata, which clients of both engines read.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from adapters.backend import Description, ModelDetails, TensorInfo
from adapters.chat_template.folder import choose, read_templates
from adapters.mlx.models.memory_estimate import read_tensors, read_weights

_FLOAT32 = 4
_SETTINGS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
}
"""Key of a GGUF, after the architecture -> setting of `config.json`."""
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
_CARD_LICENSE = re.compile(r"^license: *['\"]?([\w.-]+)", re.MULTILINE)
_UNITS = (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))
_MOST_CHARACTERS = 100_000


def details(path: Path, config: dict[str, Any]) -> ModelDetails:
    """Name the architecture and the size of the model in `path`; `config` is its `config.json`."""
    family = str(config.get("model_type") or "")
    return ModelDetails(
        format="safetensors",
        family=family,
        families=(family,) if family else (),
        parameter_size=to_parameter_size(_parameters(path)),
        embedding_length=dict(_settings(config)).get("embedding_length"),
    )


def describe(name: str, path: Path, config: dict[str, Any], *, verbose: bool) -> Description:
    """Describe the model in `path`; `verbose`: with its tensors."""
    return Description(
        facts=dict(_facts(name, path, config)),
        template=_chat_template(path),
        parameters="\n".join(_sampling(path)),
        license=_license(path),
        recipe=f"FROM {name}\n",
        tensors=tuple(_tensors(path)) if verbose else (),
    )


def to_parameter_size(count: int | None) -> str:
    """Abbreviate a number of parameters as Ollama does: `134.52M`, `7.6B`; empty for `None`."""
    if not count:
        return ""
    for unit, size in _UNITS:
        if count >= size:
            digits = 2 if unit == "M" else 1
            return f"{count / size:.{digits}f}".rstrip("0").rstrip(".") + unit
    return str(count)


def _parameters(path: Path) -> int | None:
    """Count the numbers of all weights; `None` if the files cannot be read."""
    stamp = tuple((f.name, f.stat().st_mtime_ns) for f in sorted(path.glob("model*.safetensors")))
    return _count(path, stamp)


@lru_cache(512)
def _count(path: Path, _stamp: tuple[tuple[str, int], ...]) -> int | None:
    weights = read_weights(path)
    return weights.unpacked // _FLOAT32 if weights is not None else None


def _facts(name: str, path: Path, config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    family = str(config.get("model_type") or "unknown")
    yield "general.architecture", family
    yield "general.basename", name.rpartition("/")[2]
    if (count := _parameters(path)) is not None:
        yield "general.parameter_count", count
    for key, value in _settings(config):
        yield f"{family}.{key}", value


def _settings(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the numbers of `_SETTINGS`, of the text model where there are several."""
    text = cast(dict[str, Any], config.get("text_config") or {})
    for key, setting in _SETTINGS.items():
        value = text.get(setting, config.get(setting))
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value


def _chat_template(path: Path) -> str:
    templates = read_templates(path)
    return choose(templates, tools=False) if templates else ""


def _sampling(path: Path) -> Iterator[str]:
    """Yield the defaults of sampling that come with the model."""
    try:
        settings: Any = json.loads((path / "generation_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # Few models have the file.
    if isinstance(settings, dict):
        for name in _SAMPLING:
            if isinstance(value := cast(dict[str, Any], settings).get(name), int | float):
                yield f"{name} {value}"


def _license(path: Path) -> str:
    """Read the text of the license, else its name in the model card; empty without both."""
    texts = (text for name in _LICENSES if (text := _read_text(path / name)))
    return next(texts, None) or _license_in_card(_read_text(path / "README.md"))


def _license_in_card(card: str) -> str:
    """Source: https://huggingface.co/docs/hub/model-cards"""
    head, _, _ = card.removeprefix("---\n").partition("\n---\n")
    found = _CARD_LICENSE.search(head) if card.startswith("---\n") else None
    return found[1] if found else ""


def _read_text(path: Path) -> str:
    """Read the beginning of a file; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:_MOST_CHARACTERS]
    except OSError:
        return ""


def _tensors(path: Path) -> Iterator[TensorInfo]:
    if read_weights(path) is not None:  # Every file can be read.
        for name, tensor in sorted(read_tensors(path).items()):
            yield TensorInfo(name, tensor.dtype, tensor.shape)
