"""Catalogue of the MLX models on this machine, read from folders without importing mlx."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from adapters.backend import Capability, Model
from adapters.config import MLXConfig, MLXModel
from adapters.errors import ModelNotFoundError
from adapters.mlx.embedding.files import longest_input
from adapters.mlx.models.bundled import (
    EMBEDDED,
    HUB_FALLBACK,
    cache_folder,
    converted_folder,
    find_gguf,
    imports_folder,
)
from adapters.mlx.models.capabilities import capabilities, lacks, template_notes
from adapters.mlx.models.description import details
from adapters.mlx.models.provenance import exports, origin_of

# From mlx_lm.utils.MODEL_REMAPPING (0.32.2): model types with a class of another name.
_REMAPPED = {
    "mistral": "llama",
    "llava": "mistral3",
    "phi-msft": "phixtral",
    "falcon_mamba": "mamba",
    "joyai_llm_flash": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "qwen2_5_vl": "qwen2_vl",
    "minimax_m2": "minimax",
    "iquestcoder": "llama",
    "xverse": "llama",
    "gemma4_unified": "gemma4",
}


_PART = re.compile(r"model-\d+-of-(\d+)\.safetensors")

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tiktoken.model",
    "tokenizer_config.json",
)
LORA_FILES = ("adapter_config.json", "adapters.safetensors")
"""The files that mlx-lm's training writes to a folder."""


class ModelFolder(Struct, frozen=True):
    """A model and its folder; `path` is None until it has been converted or downloaded."""

    model: Model
    path: Path | None
    base: str | None = None
    """The model with the weights, if the configuration gave it another name."""
    lora: Path | None = None
    draft: "ModelFolder | None" = None


def find_models(config: MLXConfig) -> dict[str, ModelFolder]:
    """All models that can be loaded, by name; the first folder with a name is used."""
    folders: dict[str, ModelFolder] = {}
    exported = exports(cache_folder(config.cache_folder))
    for name, path in _candidates(config):
        if name not in folders and (model := read_folder(name, path)) is not None:
            export = exported.get(path.resolve())
            if export is not None and model.origin is None:
                model = replace(model, origin=export.origin, exact=export.exact)
            folders[name] = ModelFolder(model, path)
    if config.embedded == "always" or (config.embedded == "auto" and not folders):
        bundled = _bundled_model(config)
        folders.setdefault(bundled.model.name, bundled)
    configured = {name: _resolve(name, entry, folders) for name, entry in config.models.items()}
    return folders | {
        name: folder for name, folder in configured.items() if isinstance(folder, ModelFolder)
    }


def find_model(config: MLXConfig, name: str) -> ModelFolder:
    """The model of this name, or in the folder of this path from the configuration.

    Requests cannot pass a path: the router accepts names of listed models only.

    Raises:
        ModelNotFoundError: the model or a part of it is not on this machine.
    """
    folders = find_models(config)
    if (folder := _look_up(name, folders)) is not None:
        return folder
    reason = absent_models(config, folders).get(name, "it is not on this machine")
    raise ModelNotFoundError(f"There is no MLX model '{name}': {reason}.", param="model")


def absent_models(config: MLXConfig, folders: dict[str, ModelFolder]) -> dict[str, str]:
    """Models of `config.models` that are not available with these `folders`, and why."""
    configured = {name: _resolve(name, entry, folders) for name, entry in config.models.items()}
    return {name: reason for name, reason in configured.items() if isinstance(reason, str)}


def _resolve(name: str, entry: MLXModel, folders: dict[str, ModelFolder]) -> ModelFolder | str:
    """The model `name` of the configuration, or the reason why it is not available."""
    parts = {part: _look_up(part, folders) for part in (entry.base, entry.draft) if part}
    if missing := [part for part, folder in parts.items() if folder is None]:
        return f"its part '{missing[0]}' is not on this machine"
    base, draft = parts[entry.base], parts.get(entry.draft or "")
    assert base is not None  # noqa: S101 - for the type checker: it is not missing.
    if "chat" not in base.model.capabilities and "embedding" in base.model.capabilities:
        return f"'{entry.base}' is an embedding model"
    lora = Path(entry.lora).expanduser() if entry.lora is not None else None
    if lora is not None and not all((lora / file).is_file() for file in LORA_FILES):
        return f"its LoRA folder lacks {' or '.join(LORA_FILES)}"
    model = replace(base.model, name=name)
    if lora is not None:
        model = replace(model, origin=None, exact=None)
    return ModelFolder(model, base.path, base.model.name, lora, draft)


def _look_up(name: str, folders: dict[str, ModelFolder]) -> ModelFolder | None:
    if name in folders or not name.startswith(("/", "~", "./", "../")):
        return folders.get(name)
    path = Path(name).expanduser()
    model = read_folder(path.name, path)
    return ModelFolder(model, path) if model is not None else None


def read_folder(name: str, path: Path) -> Model | None:
    """Read the model in `path`; None if it is incomplete or not supported."""
    config = read_config(path)
    weights = list(path.glob("model*.safetensors"))
    has_tokenizer = any((path / name).exists() for name in _TOKENIZER_FILES)
    if config is None or not _are_complete(weights) or not has_tokenizer:
        return None
    can, origin = capabilities(name, path, config), origin_of(path)
    is_embedding = "embedding" in can
    kind = str(config.get("model_type"))
    if not is_embedding and _REMAPPED.get(kind, kind) not in _architectures():
        return None
    return Model(
        name=name,
        context_length=longest_input(path, config) if is_embedding else context_length(config),
        capabilities=can,
        template=() if is_embedding else template_notes(name, path),
        lacks=lacks(can),
        size_bytes=sum(file.stat().st_size for file in weights),
        quantization=_quantization(config),
        origin=origin.origin if origin is not None else None,
        exact=origin.exact if origin is not None else None,
        created=int((path / "config.json").stat().st_mtime),
        details=details(path, config),
    )


def context_length(config: dict[str, Any]) -> int | None:
    """Tokens for prompt and answer together, from `config.json`; None if it has no such setting."""
    for part in (config, config.get("text_config") or {}):
        for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            if isinstance(part.get(key), int):
                return part[key]
    return None


def read_config(path: Path) -> dict[str, Any] | None:
    """The `config.json` in `path`; None if it is missing or malformed."""
    try:
        value = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _candidates(config: MLXConfig) -> Iterator[tuple[str, Path]]:
    for root in config.folders:
        yield from _below(Path(root).expanduser())
    yield from _below(imports_folder(config.cache_folder))
    if config.huggingface_cache:
        for folder in _subfolders(huggingface_cache()):
            if folder.name.startswith("models--") and (snapshot := _snapshot(folder)) is not None:
                yield folder.name.removeprefix("models--").replace("--", "/"), snapshot


def _below(root: Path) -> Iterator[tuple[str, Path]]:
    """Models in subfolders `MODEL` or `ORGANISATION/MODEL`."""
    for folder in _subfolders(root):
        if (folder / "config.json").is_file():
            yield folder.name, folder
        else:
            yield from ((f"{folder.name}/{inner.name}", inner) for inner in _subfolders(folder))


def _snapshot(folder: Path) -> Path | None:
    """The revision of `main`, which the hub's client would use; else the newest."""
    reference = folder / "refs" / "main"
    if reference.is_file():
        snapshot = folder / "snapshots" / reference.read_text(encoding="utf-8").strip()
        if snapshot.is_dir():
            return snapshot
    return max(
        _subfolders(folder / "snapshots"), key=lambda path: path.stat().st_mtime, default=None
    )


def huggingface_cache() -> Path:
    """The folder of the hub's client. Source: huggingface_hub.constants."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache_home}/huggingface"
    return Path(home).expanduser() / "hub"


def _subfolders(folder: Path) -> list[Path]:
    try:
        # Hidden folders are incomplete: a conversion is renamed at its end.
        return sorted(p for p in folder.iterdir() if p.name[0] != "." and p.is_dir())
    except OSError:
        # A root that does not exist or is not readable has no models.
        return []


def _are_complete(weights: list[Path]) -> bool:
    """True if all parts exist: `model-00002-of-00003.safetensors` is one of three, and the hub's
    cache may have an unfinished download."""
    counts = [int(part[1]) for file in weights if (part := _PART.fullmatch(file.name))]
    return bool(weights) and all(count == len(counts) for count in counts)


@cache
def _architectures() -> frozenset[str]:
    """Model classes of the installed mlx-lm, from its file names: importing it takes seconds."""
    spec = find_spec("mlx_lm")
    roots = spec.submodule_search_locations if spec is not None else None
    files = (file for root in roots or () for file in (Path(root) / "models").iterdir())
    return frozenset(file.stem for file in files)


def _quantization(config: dict[str, Any]) -> str | None:
    settings: dict[str, Any] = config.get("quantization") or config.get("quantization_config") or {}
    if isinstance(bits := settings.get("bits"), int):
        return f"{bits}-bit"
    dtype = config.get("torch_dtype") or config.get("dtype")
    return dtype if isinstance(dtype, str) else None


def _bundled_model(config: MLXConfig) -> ModelFolder:
    """The bundled model, read from its folder once it has been converted."""
    source = find_gguf()
    name = EMBEDDED if source is not None else HUB_FALLBACK
    path = converted_folder(config.cache_folder)
    if path is not None and (model := read_folder(name, path)) is not None:
        return ModelFolder(model, path)
    can: frozenset[Capability] = frozenset({"chat"})
    size = source.stat().st_size if source is not None else None
    model = Model(
        name=name, context_length=8192, capabilities=can, lacks=lacks(can), size_bytes=size
    )
    return ModelFolder(model, None)
