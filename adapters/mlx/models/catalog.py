"""Which MLX models are on this machine: read from folders, without importing mlx."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import msgspec

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
from adapters.mlx.models.capabilities import capabilities, lacks
from adapters.mlx.models.provenance import Origin, exports, origin_of

# From mlx_lm.utils.MODEL_REMAPPING (0.32.2), where the class has another name than the model.
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

LORA_FILES = ("adapter_config.json", "adapters.safetensors")
"""What mlx-lm's training leaves in a folder."""


class ModelFolder(msgspec.Struct, frozen=True):
    """A model and where it is. `path` is None while it has still to be converted or fetched."""

    model: Model
    path: Path | None
    base: str | None = None
    """The model whose weights these are, where the configuration gave it another name."""
    lora: Path | None = None
    draft: "ModelFolder | None" = None


def find_models(config: MLXConfig) -> dict[str, ModelFolder]:
    """Every model that could be loaded, by name; of two with one name the first found counts."""
    found: dict[str, ModelFolder] = {}
    exported = exports(cache_folder(config.cache_folder))
    for name, path in _candidates(config):
        if name not in found and (model := read_folder(name, path)) is not None:
            found[name] = ModelFolder(_with_export(model, exported.get(path.resolve())), path)
    if config.embedded == "always" or (config.embedded == "auto" and not found):
        embedded = _embedded(config)
        found.setdefault(embedded.model.name, embedded)
    made = {name: _make(name, entry, found) for name, entry in config.models.items()}
    return found | {name: each for name, each in made.items() if isinstance(each, ModelFolder)}


def _with_export(model: Model, made: Origin | None) -> Model:
    """What the folder itself tells of its origin is stronger."""
    if made is None or model.origin is not None:
        return model
    return msgspec.structs.replace(model, origin=made.origin, exact=made.exact)


def find_model(config: MLXConfig, name: str) -> ModelFolder:
    """By the name it is listed under, or the path that the configuration gives.

    The server passes no path that came with a request: its router knows listed names only.

    Raises:
        ModelNotFoundError: it is not on this machine, or something that it is made of is not.
    """
    found = find_models(config)
    if (folder := _look_up(name, found)) is not None:
        return folder
    why = absent_models(config, found).get(name, "it is not on this machine")
    raise ModelNotFoundError(f"There is no MLX model '{name}': {why}.", param="model")


def absent_models(config: MLXConfig, found: dict[str, ModelFolder]) -> dict[str, str]:
    """Those of `config.models` that cannot be made of what was `found`, and why."""
    made = {name: _make(name, entry, found) for name, entry in config.models.items()}
    return {name: why for name, why in made.items() if isinstance(why, str)}


def _make(name: str, entry: MLXModel, found: dict[str, ModelFolder]) -> ModelFolder | str:
    """The model `name` of the configuration, or why there is none."""
    parts = {part: _look_up(part, found) for part in (entry.base, entry.draft) if part}
    if absent := [part for part, folder in parts.items() if folder is None]:
        return f"its part '{absent[0]}' is not on this machine"
    base, draft = parts[entry.base], parts.get(entry.draft or "")
    assert base is not None  # noqa: S101 - for the type checker: it is not among the absent.
    if "chat" not in base.model.capabilities and "embedding" in base.model.capabilities:
        return f"'{entry.base}' embeds"
    lora = Path(entry.lora).expanduser() if entry.lora is not None else None
    if lora is not None and not all((lora / file).is_file() for file in LORA_FILES):
        return f"its LoRA folder lacks {' or '.join(LORA_FILES)}"
    model = msgspec.structs.replace(base.model, name=name)
    if lora is not None:
        model = msgspec.structs.replace(model, origin=None, exact=None)
    return ModelFolder(model, base.path, base.model.name, lora, draft)


def _look_up(name: str, found: dict[str, ModelFolder]) -> ModelFolder | None:
    if name in found or not name.startswith(("/", "~", "./", "../")):
        return found.get(name)
    path = Path(name).expanduser()
    model = read_folder(path.name, path)
    return ModelFolder(model, path) if model is not None else None


def read_folder(name: str, path: Path) -> Model | None:
    """What the files of `path` say of the model, or None where nothing here could load it."""
    config = read_config(path)
    weights = list(path.glob("model*.safetensors"))
    if config is None or not _are_whole(weights) or not _has_tokenizer(path):
        return None
    can, made = capabilities(name, path, config), origin_of(path)
    if "embedding" not in can and not _can_generate(config):
        return None
    return Model(
        name=name,
        context_length=longest_input(path, config)
        if "embedding" in can
        else context_length(config),
        capabilities=can,
        lacks=lacks(can),
        size_bytes=sum(file.stat().st_size for file in weights),
        quantization=_quantization(config),
        origin=made.origin if made is not None else None,
        exact=made.exact if made is not None else None,
        created=int((path / "config.json").stat().st_mtime),
    )


def context_length(config: dict[str, Any]) -> int | None:
    """Tokens of prompt and answer together, from a model's `config.json`."""
    for part in (config, config.get("text_config") or {}):
        for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            if isinstance(part.get(key), int):
                return part[key]
    return None


def read_config(path: Path) -> dict[str, Any] | None:
    return _read_json(path / "config.json")


def _candidates(config: MLXConfig) -> Iterator[tuple[str, Path]]:
    for root in config.folders:
        yield from _below(Path(root).expanduser())
    yield from _below(imports_folder(config.cache_folder))
    if config.huggingface_cache:
        yield from _in_huggingface_cache(huggingface_cache())


def _below(root: Path) -> Iterator[tuple[str, Path]]:
    """Subfolders, and theirs where a folder only groups models by who made them."""
    for folder in _subfolders(root):
        if (folder / "config.json").is_file():
            yield folder.name, folder
        else:
            yield from ((f"{folder.name}/{inner.name}", inner) for inner in _subfolders(folder))


def _in_huggingface_cache(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in _subfolders(root):
        if folder.name.startswith("models--"):
            name = folder.name.removeprefix("models--").replace("--", "/")
            if (snapshot := _snapshot(folder)) is not None:
                yield name, snapshot


def _snapshot(folder: Path) -> Path | None:
    """The revision `main` points to, as the hub's client would choose; else the newest."""
    reference = folder / "refs" / "main"
    if reference.is_file():
        snapshot = folder / "snapshots" / reference.read_text(encoding="utf-8").strip()
        if snapshot.is_dir():
            return snapshot
    return max(
        _subfolders(folder / "snapshots"), key=lambda path: path.stat().st_mtime, default=None
    )


def huggingface_cache() -> Path:
    """Where the hub's client keeps repositories; source: huggingface_hub.constants."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache_home}/huggingface"
    return Path(home).expanduser() / "hub"


def _subfolders(folder: Path) -> list[Path]:
    try:
        # Hidden ones are half made: a conversion is renamed when it is whole.
        found = (path for path in folder.iterdir() if path.name[0] != "." and path.is_dir())
        return sorted(found)
    except OSError:
        # A root that is not there, or that this user may not read, holds no models.
        return []


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _are_whole(weights: list[Path]) -> bool:
    """Whether all parts are there: `model-00002-of-00003.safetensors` is one of three. In a cache
    the others may be on their way."""
    counts = [int(part[1]) for each in weights if (part := _PART.fullmatch(each.name))]
    return bool(weights) and all(count == len(counts) for count in counts)


def _has_tokenizer(path: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "tokenizer_config.json")
    return any((path / name).exists() for name in names)


def _can_generate(config: dict[str, Any]) -> bool:
    kind = config.get("model_type")
    return isinstance(kind, str) and _REMAPPED.get(kind, kind) in _architectures()


@cache
def _architectures() -> frozenset[str]:
    """The model classes of the installed mlx-lm, by file name: importing it would take seconds."""
    spec = find_spec("mlx_lm")
    roots = spec.submodule_search_locations if spec is not None else None
    files = (file for root in roots or () for file in (Path(root) / "models").iterdir())
    return frozenset(file.stem for file in files)


def _quantization(config: dict[str, Any]) -> str | None:
    packed: dict[str, Any] = config.get("quantization") or config.get("quantization_config") or {}
    if isinstance(bits := packed.get("bits"), int):
        return f"{bits}-bit"
    dtype = config.get("torch_dtype") or config.get("dtype")
    return dtype if isinstance(dtype, str) else None


def _embedded(config: MLXConfig) -> ModelFolder:
    """All that can be told of it once it was converted; before that, what it will be."""
    source = find_gguf()
    name = EMBEDDED if source is not None else HUB_FALLBACK
    made = converted_folder(config.cache_folder)
    if made is not None and (model := read_folder(name, made)) is not None:
        return ModelFolder(model, made)
    can: frozenset[Capability] = frozenset({"chat"})
    size = source.stat().st_size if source is not None else None
    foreseen = Model(
        name=name, context_length=8192, capabilities=can, lacks=lacks(can), size_bytes=size
    )
    return ModelFolder(foreseen, None)
