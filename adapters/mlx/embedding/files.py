"""Configuration of embedding models, from the files of Sentence Transformers. mlx is not imported.

    modules.json                        the modules: Transformer, Pooling, Dense, Normalize
    1_Pooling/config.json               how token vectors become one vector
    2_Dense/config.json                 a linear layer after it, weights beside the file
    sentence_bert_config.json           longest input, lower-casing
    config_sentence_transformers.json   text before each input, similarity function

Source: https://sbert.net/docs/package_reference/base/modules.html
"""

import json
from pathlib import Path
from typing import Any, Literal, cast

from msgspec import Struct

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

ENCODERS = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "modernbert"})
_READ_AS_ENCODERS = frozenset({"qwen3", "gemma3_text"})
ARCHITECTURES = ENCODERS | _READ_AS_ENCODERS
_SHIFTED = frozenset({"roberta", "xlm-roberta", "camembert"})
"""Architectures with positions that start after that of the padding token."""

_MODES: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = frozenset({"Transformer", "Pooling", "Dense", "Normalize"})


class EmbeddingFilesError(ValueError):
    """The files need something that is missing or not supported; the message names it."""


class EmbeddingFiles(Struct, frozen=True, kw_only=True):
    pooling: tuple[PoolingMode, ...]
    """Results of several modes are concatenated."""
    dense: tuple[str, ...] = ()
    """Subfolders of linear layers, in order."""
    normalize: bool = True
    max_tokens: int | None = None
    """Special tokens included."""
    lower_case: bool = False
    prefix: str = ""
    """Prepended to texts, not to token ids."""


def is_embedding(name: str, path: Path, config: dict[str, Any]) -> bool:
    """True for an embedding model, false for a generating one.

    mlx-lm's converter drops `modules.json`: converted decoders are recognised by their name.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        return False
    if (path / "modules.json").is_file():
        return True
    if kind in _READ_AS_ENCODERS:
        return bool(config.get("use_bidirectional_attention")) or "embedding" in name.lower()
    # The output of a classifier is not an embedding.
    heads = cast(list[str], config.get("architectures") or [])
    return not any(head.endswith("Classification") for head in heads)


def longest_input(path: Path, config: dict[str, Any]) -> int | None:
    """Limit in tokens, special ones included: the configured one, at most the positions."""
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _SHIFTED:
        padding = config.get("pad_token_id")
        positions -= (padding if isinstance(padding, int) else 1) + 1
    limit = _read(path / "sentence_bert_config.json").get("max_seq_length")
    return min((value for value in (positions, limit) if isinstance(value, int)), default=None)


def read_embedding_files(path: Path, config: dict[str, Any]) -> EmbeddingFiles:
    """Read the configuration of the embedding model in `path`.

    Raises:
        EmbeddingFilesError: a file is missing, or a module is not supported.
    """
    modules = _modules(path)
    settings = _read(path / "config_sentence_transformers.json")
    prompts: dict[str, str] = settings.get("prompts") or {}
    pooling = [_pooling(path / folder) for kind, folder in modules if kind == "Pooling"]
    # The default of Sentence Transformers, or for Qwen3 that of its model card.
    default: PoolingMode = "lasttoken" if config.get("model_type") == "qwen3" else "mean"
    return EmbeddingFiles(
        pooling=pooling[0] if pooling else (default,),
        dense=tuple(folder for kind, folder in modules if kind == "Dense"),
        normalize=_is_normalized(modules, settings),
        max_tokens=longest_input(path, config),
        lower_case=_read(path / "sentence_bert_config.json").get("do_lower_case") is True,
        prefix=prompts.get(settings.get("default_prompt_name") or "", ""),
    )


def _modules(path: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module; empty if there is no `modules.json`."""
    file = path / "modules.json"
    if not file.is_file():
        return []
    entries = cast(list[dict[str, Any]], json.loads(file.read_bytes()))
    modules = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in entries]
    if unknown := [kind for kind, _ in modules if kind not in _MODULES]:
        raise EmbeddingFilesError(f"modules.json has {unknown[0]!r}, which is not supported")
    if any(kind == "Transformer" and folder for kind, folder in modules):
        raise EmbeddingFilesError("modules.json has the transformer in a subfolder")
    return modules


def _pooling(folder: Path) -> tuple[PoolingMode, ...]:
    config = _read(folder / "config.json")
    if not config:
        raise EmbeddingFilesError(f"{folder.name}/config.json with the pooling mode is missing")
    if isinstance(name := config.get("pooling_mode"), str):
        modes: tuple[PoolingMode, ...] = tuple(m for m in _MODES.values() if m == name)
    else:
        modes = tuple(mode for key, mode in _MODES.items() if config.get(key))
    if not modes:
        raise EmbeddingFilesError(f"{folder.name}/config.json has no supported pooling mode")
    if config.get("include_prompt") is False:
        raise EmbeddingFilesError(f"{folder.name}/config.json excludes the prompt from pooling")
    return modes


def _is_normalized(modules: list[tuple[str, str]], settings: dict[str, Any]) -> bool:
    """False if the similarity function needs the length of vectors; else, like OpenAI, true."""
    if not modules or any(kind == "Normalize" for kind, _ in modules):
        return True
    return settings.get("similarity_fn_name") in (None, "cosine")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EmbeddingFilesError(f"{path.name} is not JSON: {error}") from error
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
