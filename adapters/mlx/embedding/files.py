"""What a folder says of how it embeds, in Sentence Transformers' files; without importing mlx.

    modules.json                     the steps: Transformer, Pooling, Dense, Normalize
    1_Pooling/config.json            how the tokens' vectors become one
    2_Dense/config.json              a matrix after that; its weights lie beside it
    sentence_bert_config.json        the longest input, and whether it is lowered first
    config_sentence_transformers.json   the text put before each input, the measure of likeness

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
"""Their positions begin behind the padding token's."""

_MODES: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_STEPS = frozenset({"Transformer", "Pooling", "Dense", "Normalize"})


class EmbeddingFilesError(ValueError):
    """The files ask for something that is not there or not known; says what."""


class EmbeddingFiles(Struct, frozen=True, kw_only=True):
    pooling: tuple[PoolingMode, ...]
    """More than one: their results side by side."""
    dense: tuple[str, ...] = ()
    """Subfolders with a matrix each, in order."""
    normalize: bool = True
    max_tokens: int | None = None
    """Special tokens included."""
    lower_case: bool = False
    prefix: str = ""
    """Goes before each text, though not before token ids."""


def is_embedding(name: str, path: Path, config: dict[str, Any]) -> bool:
    """Whether a folder holds a model that embeds and does not generate.

    mlx-lm's converter leaves `modules.json` behind: there the decoders are told by their name.
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        return False
    if (path / "modules.json").is_file():
        return True
    if kind in _READ_AS_ENCODERS:
        return bool(config.get("use_bidirectional_attention")) or "embedding" in name.lower()
    # A classifier has a head that says something else than where a text lies.
    heads = cast(list[str], config.get("architectures") or [])
    return not any(head.endswith("Classification") for head in heads)


def longest_input(path: Path, config: dict[str, Any]) -> int | None:
    """Tokens, special ones included: what the files say, within the positions there are."""
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _SHIFTED:
        positions -= _integer(config.get("pad_token_id"), 1) + 1
    said = _read(path / "sentence_bert_config.json").get("max_seq_length")
    return min((value for value in (positions, said) if isinstance(value, int)), default=None)


def read_embedding_files(path: Path, config: dict[str, Any]) -> EmbeddingFiles:
    """
    Raises:
        EmbeddingFilesError: a step is missing, or one that is not known here.
    """
    steps = _steps(path)
    about = _read(path / "config_sentence_transformers.json")
    pooling = [_pooling(path / folder) for kind, folder in steps if kind == "Pooling"]
    return EmbeddingFiles(
        pooling=pooling[0] if pooling else (_usual_pooling(config),),
        dense=tuple(folder for kind, folder in steps if kind == "Dense"),
        normalize=_is_normalized(steps, about),
        max_tokens=longest_input(path, config),
        lower_case=_read(path / "sentence_bert_config.json").get("do_lower_case") is True,
        prefix=_prefix(about),
    )


def _steps(path: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each step; empty where there is no `modules.json`."""
    file = path / "modules.json"
    if not file.is_file():
        return []
    modules = cast(list[dict[str, Any]], json.loads(file.read_bytes()))
    steps = [(str(each["type"]).rpartition(".")[2], str(each["path"])) for each in modules]
    if unknown := [kind for kind, _ in steps if kind not in _STEPS]:
        raise EmbeddingFilesError(f"modules.json asks for {unknown[0]!r}, which is not known here")
    if any(kind == "Transformer" and folder for kind, folder in steps):
        raise EmbeddingFilesError("modules.json has the transformer in a subfolder")
    return steps


def _pooling(folder: Path) -> tuple[PoolingMode, ...]:
    said = _read(folder / "config.json")
    if not said:
        raise EmbeddingFilesError(f"{folder.name}/config.json, which says how to pool, is missing")
    if isinstance(name := said.get("pooling_mode"), str):
        modes: tuple[PoolingMode, ...] = tuple(m for m in _MODES.values() if m == name)
    else:
        modes = tuple(mode for key, mode in _MODES.items() if said.get(key))
    if not modes:
        raise EmbeddingFilesError(f"{folder.name}/config.json names no pooling that is known here")
    if said.get("include_prompt") is False:
        raise EmbeddingFilesError(f"{folder.name}/config.json leaves the prompt out of the mean")
    return modes


def _usual_pooling(config: dict[str, Any]) -> PoolingMode:
    """What Sentence Transformers does where no file says it; Qwen3's card has the last token."""
    return "lasttoken" if config.get("model_type") == "qwen3" else "mean"


def _is_normalized(steps: list[tuple[str, str]], about: dict[str, Any]) -> bool:
    """Vectors have length 1, as OpenAI's and Ollama's do, unless the files measure by length."""
    if not steps or any(kind == "Normalize" for kind, _ in steps):
        return True
    return about.get("similarity_fn_name") in (None, "cosine")


def _prefix(about: dict[str, Any]) -> str:
    prompts: dict[str, str] = about.get("prompts") or {}
    return prompts.get(about.get("default_prompt_name") or "", "")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EmbeddingFilesError(f"{path.name} is not JSON: {error}") from error
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _integer(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default
