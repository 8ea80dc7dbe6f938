"""Catalogue of the MLX models on this machine, read from folders without importing mlx."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from adapters.backend import Capability, Model
from adapters.config import MLXConfig, MLXModel
from adapters.errors import ModelNotFoundError
from adapters.mlx.audio.kinds import audio_kind
from adapters.mlx.audio.kinds import incomplete as incomplete_audio
from adapters.mlx.embedding.files import longest_input
from adapters.mlx.models.architectures import unsupported
from adapters.mlx.models.bundled import (
    EMBEDDED,
    HUB_FALLBACK,
    cache_folder,
    converted_folder,
    find_gguf,
    imports_folder,
)
from adapters.mlx.models.capabilities import AUDIO, capabilities, lacks, template_notes
from adapters.mlx.models.description import details
from adapters.mlx.models.provenance import exports, origin_of

_PART = re.compile(r"model-\d+-of-(\d+)\.safetensors")

_PATHS = ("/", "~", "./", "../")
"""Beginnings of paths, which the configuration may have in place of names."""
_CONVERT = "`mlx_lm.convert` makes a folder of safetensors from it"
_OTHER_WEIGHTS = {
    ".npz": _CONVERT,
    ".bin": _CONVERT,
    ".pt": _CONVERT,
    ".pth": _CONVERT,
    ".gguf": "`tandem import` makes an MLX folder from it",
    ".safetensors": "mlx-lm reads files named model*.safetensors",
}
"""Formats of weights that are not read, and what to do."""

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


class Catalog(Struct, frozen=True):
    """The models on this machine, by name."""

    folders: dict[str, ModelFolder]
    """Models that can be loaded."""
    unusable: dict[str, str]
    """Models that are here and cannot be loaded, or lack a part, and why."""


def read_catalog(config: MLXConfig) -> Catalog:
    """Read all folders of the configuration; the first usable folder with a name is used."""
    folders: dict[str, ModelFolder] = {}
    unusable: dict[str, str] = {}
    exported = exports(cache_folder(config.cache_folder))
    for name, path in _candidates(config):
        if name in folders:
            continue
        model = read_folder(name, path)
        if isinstance(model, str):
            unusable.setdefault(name, model)
        elif model is not None:
            export = exported.get(path.resolve())
            if export is not None and model.origin is None:
                model = replace(model, origin=export.origin, exact=export.exact)
            folders[name] = ModelFolder(model, path)
    if config.embedded == "always" or (config.embedded == "auto" and not folders):
        bundled = _bundled_model(config)
        folders.setdefault(bundled.model.name, bundled)
    configured = {name: _resolve(name, entry, folders) for name, entry in config.models.items()}
    for name, resolved in configured.items():
        if isinstance(resolved, ModelFolder):
            folders[name] = resolved
        else:
            unusable[name] = resolved
    return Catalog(folders, {n: why for n, why in unusable.items() if n not in folders})


def find_models(config: MLXConfig) -> dict[str, ModelFolder]:
    """All models that can be loaded, by name."""
    return read_catalog(config).folders


def find_model(config: MLXConfig, name: str) -> ModelFolder:
    """The model of this name, or in the folder of this path from the configuration.

    Requests cannot pass a path: the router accepts names of listed models only.

    Raises:
        ModelNotFoundError: the model or a part of it is not on this machine.
    """
    catalog = read_catalog(config)
    folder = _look_up(name, catalog.folders)
    if isinstance(folder, ModelFolder):
        return folder
    reason = folder or catalog.unusable.get(name, "it is not on this machine")
    raise ModelNotFoundError(f"There is no MLX model '{name}': {reason}.", param="model")


def _resolve(name: str, entry: MLXModel, folders: dict[str, ModelFolder]) -> ModelFolder | str:
    """The model `name` of the configuration, or the reason why it is not available."""
    parts: dict[str, ModelFolder] = {}
    for part in filter(None, (entry.base, entry.draft)):
        folder = _look_up(part, folders)
        if not isinstance(folder, ModelFolder):
            part = Path(part).name if part.startswith(_PATHS) else part
            return f"its part '{part}' is not on this machine" + (f": {folder}" if folder else "")
        parts[part] = folder
    base, draft = parts[entry.base], parts.get(entry.draft or "")
    if "chat" not in base.model.capabilities and "embedding" in base.model.capabilities:
        return f"'{entry.base}' is an embedding model"
    if not AUDIO.isdisjoint(base.model.capabilities):
        return f"'{entry.base}' is a model of audio"
    lora = Path(entry.lora).expanduser() if entry.lora is not None else None
    if lora is not None and not all((lora / file).is_file() for file in LORA_FILES):
        return f"its LoRA folder lacks {' or '.join(LORA_FILES)}"
    model = replace(base.model, name=name)
    if lora is not None:
        model = replace(model, origin=None, exact=None)
    return ModelFolder(model, base.path, base.model.name, lora, draft)


def _look_up(name: str, folders: dict[str, ModelFolder]) -> ModelFolder | str | None:
    if name in folders or not name.startswith(_PATHS):
        return folders.get(name)
    path = Path(name).expanduser()
    model = read_folder(path.name, path)
    return ModelFolder(model, path) if isinstance(model, Model) else model


def read_folder(name: str, path: Path) -> Model | str | None:
    """Read the model in `path`.

    Returns the reason if it cannot be loaded, and `None` if the folder has no `config.json` and is
    no model.
    """
    if not (path / "config.json").is_file():
        return None
    if (config := read_config(path)) is None:
        return "its config.json cannot be read"
    if (audio := audio_kind(name, config)) is not None:
        return incomplete_audio(audio, path) or _audio_model(name, path, config)
    weights = list(path.glob("model*.safetensors"))
    if (incomplete := _incomplete(path, weights)) is not None:
        return incomplete
    can, origin = capabilities(name, path, config), origin_of(path)
    is_embedding = "embedding" in can
    if not is_embedding and (reason := unsupported(config)) is not None:
        return reason
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


def _audio_model(name: str, path: Path, config: dict[str, Any]) -> Model:
    can = capabilities(name, path, config)
    return Model(
        name=name,
        capabilities=can,
        lacks=lacks(can),
        size_bytes=sum(file.stat().st_size for file in path.glob("*.safetensors")),
        quantization=_quantization(config),
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


def _incomplete(path: Path, weights: list[Path]) -> str | None:
    """Return what the folder lacks, or has in a format that is not read; `None` for nothing."""
    if not weights:
        other = [file.name for file in _files(path) if file.suffix in _OTHER_WEIGHTS]
        if other:
            return f"its weights are in {other[0]}: {_OTHER_WEIGHTS[Path(other[0]).suffix]}"
        return "it has no model*.safetensors"
    if missing := sorted(_parts(path, weights) - {file.name for file in weights}):
        return f"{missing[0]} is missing"
    if not any((path / name).exists() for name in _TOKENIZER_FILES):
        return "it has no tokenizer.json"
    return None


def _parts(path: Path, weights: list[Path]) -> set[str]:
    """Return the names of all files of weights: `model-00002-of-00003.safetensors` is one of three,
    and the hub's cache may have an unfinished download."""
    counts = {part[1] for file in weights if (part := _PART.fullmatch(file.name))}
    return {
        f"model-{number:0{len(count)}}-of-{count}.safetensors"
        for count in counts
        for number in range(1, int(count) + 1)
    }


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


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
    if path is not None and isinstance(model := read_folder(name, path), Model):
        return ModelFolder(model, path)
    can: frozenset[Capability] = frozenset({"chat"})
    size = source.stat().st_size if source is not None else None
    model = Model(
        name=name, context_length=8192, capabilities=can, lacks=lacks(can), size_bytes=size
    )
    return ModelFolder(model, None)
