"""Catalogue of the MLX models on this machine, read from folders without importing mlx."""

import errno
import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from adapters.backend import Capability, Model
from adapters.chat_template.confined import TemplateLimitError
from adapters.config import EMBEDDED, MLXConfig, MLXModel
from adapters.errors import GenerationError, ModelNotFoundError
from adapters.mlx.audio.kinds import audio_kind
from adapters.mlx.audio.kinds import incomplete as incomplete_audio
from adapters.mlx.embedding.files import longest_input
from adapters.mlx.models.architectures import unsupported
from adapters.mlx.models.bundled import (
    HUB_FALLBACK,
    cache_folder,
    converted_folder,
    digest_of_wheel,
    find_gguf,
    imports_folder,
)
from adapters.mlx.models.capabilities import (
    AUDIO,
    Describe,
    TemplateDescription,
    capabilities,
    describe_template,
    lacks,
)
from adapters.mlx.models.description import details
from adapters.mlx.models.provenance import exports, origin_of
from adapters.mlx.vision.support import EXTRA, sight_of
from adapters.naming import LONGEST, can_be_named

logger = logging.getLogger(__name__)
_PART = re.compile(r"model-\d+-of-(\d+)\.safetensors")

_PATHS = ("/", "~", "./", "../")
"""Beginnings of paths, which the configuration may have in place of names."""
_OF_TORCH = "a folder of safetensors is needed; transformers' `save_pretrained` writes one"
_OTHER_WEIGHTS = {
    ".npz": "a folder of safetensors is needed; `mlx.core.save_safetensors` writes one",
    ".bin": _OF_TORCH,
    ".pt": _OF_TORCH,
    ".pth": _OF_TORCH,
    ".gguf": "`tandem import` makes an MLX folder from it",
    ".safetensors": "mlx-lm reads files named model*.safetensors",
}
"""Formats of weights that are not read, and what to do."""

_WITHOUT_EXTRA = f"it needs mlx-vlm, which pip install '{EXTRA}' installs"
_MOST_PARTS = 10_000
"""Files of weights: more are missing anyway."""
_HUB = "models--"
"""Beginning of the names of models' folders in the hub's cache."""
READ = frozenset({".safetensors", ".json", ".jinja", ".model"})
"""Suffixes of the files that make a model."""
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tiktoken.model",
    "tokenizer_config.json",
)
_MOST_CONFIG_BYTES = 16 * 1024**2
"""Names of 20,000 classes take one."""
_OBJECTS = ("quantization", "quantization_config", "text_config")
"""Settings that are objects where a `config.json` has them."""
_MOST = {"layers": 1000, "layer": 1000, "blocks": 1000, "experts": 100_000}
"""The largest plausible number, by the last word of a setting: mlx-lm makes an object for each
before it compares them with the weights."""
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
    is_complete: bool = True
    """False while a template is only described by its text."""


def read_catalog(config: MLXConfig, describe: Describe = describe_template) -> Catalog:
    """Read all folders of the configuration; the first usable folder with a name is used."""
    folders: dict[str, ModelFolder] = {}
    unusable: dict[str, str] = {}
    guessed: list[str] = []

    def describe_noted(name: str, path: Path) -> TemplateDescription:
        description = describe(name, path)
        guessed.extend([name] if description.possible else [])
        return description

    exported = exports(cache_folder(config.cache_folder))
    for name, folder in _candidates(config):
        if name in folders:
            continue
        if not can_be_named(name):
            shown = "".join(char if char.isprintable() else "\ufffd" for char in name[:LONGEST])
            unusable[shown] = f"its folder's name is not 1 to {LONGEST} printable characters"
            continue
        path, model = _read_candidate(name, folder, describe_noted)
        if isinstance(model, str):
            unusable.setdefault(name, model)
        elif model is not None:
            export = exported.get(path.resolve())
            if export is not None and model.origin is None:
                model = replace(model, origin=export.origin, exact=export.exact)
            folders[name] = ModelFolder(model, path)
    if config.embedded == "always" or (config.embedded == "auto" and not folders):
        bundled = _bundled_model(config, describe_noted)
        folders.setdefault(bundled.model.name, bundled)
    configured = {
        name: _resolve(name, entry, folders, describe_noted)
        for name, entry in config.models.items()
    }
    for name, resolved in configured.items():
        if isinstance(resolved, ModelFolder):
            folders[name] = resolved
        else:
            unusable[name] = resolved
    unusable = {name: why for name, why in unusable.items() if name not in folders}
    return Catalog(folders, unusable, is_complete=not guessed)


def find_models(config: MLXConfig) -> dict[str, ModelFolder]:
    """All models that can be loaded, by name."""
    return read_catalog(config).folders


def find_model(config: MLXConfig, name: str, describe: Describe = describe_template) -> ModelFolder:
    """The model of this name, or in the folder of this path from the configuration.

    Requests cannot pass a path: the router accepts names of listed models only.

    Raises:
        ModelNotFoundError: the model or a part of it is not on this machine.
    """
    catalog = read_catalog(config, describe)
    folder = _look_up(name, catalog.folders, describe)
    if isinstance(folder, ModelFolder):
        return folder
    reasons = config.withheld() | catalog.unusable
    reason = folder or reasons.get(name, "it is not on this machine")
    raise ModelNotFoundError(f"There is no MLX model '{name}': {reason}.", param="model")


def _resolve(
    name: str, entry: MLXModel, folders: dict[str, ModelFolder], describe: Describe
) -> ModelFolder | str:
    """The model `name` of the configuration, or the reason why it is not available."""
    parts: dict[str, ModelFolder] = {}
    for part in filter(None, (entry.base, entry.draft)):
        folder = _look_up(part, folders, describe)
        if not isinstance(folder, ModelFolder):
            part = Path(part).name if part.startswith(_PATHS) else part
            return f"its part '{part}' is not on this machine" + (f": {folder}" if folder else "")
        parts[part] = folder
    base, draft = parts[entry.base], parts.get(entry.draft or "")
    if "chat" not in base.model.capabilities and "embedding" in base.model.capabilities:
        return f"'{entry.base}' is an embedding model"
    if not AUDIO.isdisjoint(base.model.capabilities):
        return f"'{entry.base}' is a model of audio"
    lora = Path(os.path.expanduser(entry.lora)) if entry.lora is not None else None
    if lora is not None and not all(os.path.isfile(lora / file) for file in LORA_FILES):
        return f"its LoRA folder lacks {' or '.join(LORA_FILES)}"
    model = replace(base.model, name=name)
    if lora is not None or draft is not None:
        model = _without_vision(model)
    if lora is not None:
        model = replace(model, origin=None, exact=None)
    return ModelFolder(model, base.path, base.model.name, lora, draft)


def _without_vision(model: Model) -> Model:
    """Return a vision model as mlx-lm runs it, for adapters and drafts: these are mlx-lm's."""
    can = model.capabilities - {"vision"}
    return replace(model, capabilities=can, lacks=lacks(can))


def _look_up(
    name: str, folders: dict[str, ModelFolder], describe: Describe
) -> ModelFolder | str | None:
    if name in folders or not name.startswith(_PATHS):
        return folders.get(name)
    path = Path(os.path.expanduser(name))
    model = read_folder(path.name, path, describe)
    return ModelFolder(model, path) if isinstance(model, Model) else model


def read_folder(
    name: str, path: Path, describe: Describe = describe_template
) -> Model | str | None:
    """Read the model in `path`.

    Returns the reason if it cannot be loaded, and `None` if the folder has neither a `config.json`
    nor weights and is no model.
    """
    try:
        return _read_folder(name, path, describe)
    except TemplateLimitError as error:
        return f"its chat template {error.clause}"
    except GenerationError as error:
        return f"its chat template cannot be rendered: {error.message.rstrip('.')}"
    except OSError as error:
        return f"its files cannot be read: {error.strerror}"
    except Exception as error:
        # Whatever the files of a model raise concerns this model only.
        logger.debug("reading the model %s failed", name, exc_info=True)
        return f"its files cannot be interpreted: {type(error).__name__}"


def _read_folder(name: str, path: Path, describe: Describe) -> Model | str | None:
    if not (path / "config.json").is_file():
        return _without_config(path)
    if (irregular := _irregular(path)) is not None:
        return irregular
    if (config := read_config(path)) is None:
        return "its config.json cannot be read"
    if (implausible := _implausible(config)) is not None:
        return implausible
    if (audio := audio_kind(name, config)) is not None:
        if not any(path.glob("*.safetensors")):
            return _without_weights(path, "*.safetensors")
        return incomplete_audio(audio, path) or _audio_model(name, path, config)
    weights = list(path.glob("model*.safetensors"))
    if (incomplete := _incomplete(path, weights)) is not None:
        return incomplete
    can, origin = capabilities(name, path, config, describe), origin_of(path)
    is_embedding = "embedding" in can
    sight = "none" if is_embedding else sight_of(path, config)
    if not is_embedding and sight != "supported" and (reason := unsupported(config)) is not None:
        return _WITHOUT_EXTRA if sight == "missing" else reason
    template = TemplateDescription(can) if is_embedding else describe(name, path)
    return Model(
        name=name,
        context_length=longest_input(path, config) if is_embedding else context_length(config),
        capabilities=can,
        template=template.notes,
        lacks=lacks(can | template.possible),
        extras={"images": EXTRA} if sight == "missing" else {},
        size_bytes=sum(file.stat().st_size for file in weights),
        quantization=_quantization(config),
        origin=origin.origin if origin is not None else None,
        exact=origin.exact if origin is not None else None,
        created=int((path / "config.json").stat().st_mtime),
        details=details(path, config),
    )


def _without_config(path: Path) -> str | None:
    """Return why weights without a `config.json` cannot be loaded; `None` for other folders."""
    files = [file.name for file in _files(path)]
    if LORA_FILES[0] in files:
        return (
            "it is a LoRA adapter, not a model: `backends.mlx.models` in config.yaml gives a name "
            "to it and its base"
        )
    weights = [name for name in files if Path(name).suffix in _OTHER_WEIGHTS]
    if not weights or weights[0].endswith(".safetensors"):
        return "it has no config.json" if weights else None
    return _in_other_format(weights[0])


def _without_weights(path: Path, expected: str) -> str:
    other = [file.name for file in _files(path) if file.suffix in _OTHER_WEIGHTS]
    return _in_other_format(other[0]) if other else f"it has no {expected}"


def _in_other_format(file: str) -> str:
    """The reason why weights in a file of another format are not used."""
    return f"its weights are in {file}: {_OTHER_WEIGHTS[Path(file).suffix]}"


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
    """The `config.json` in `path`; None if it is missing, malformed or larger than 16 MB."""
    try:
        with (path / "config.json").open("rb") as file:
            data = file.read(_MOST_CONFIG_BYTES + 1)
        value = json.loads(data) if len(data) <= _MOST_CONFIG_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _irregular(path: Path) -> str | None:
    """Name a file of the model that may not be read, or is a pipe, a device or a link without its
    target; reading one fails, or never ends."""
    for file in _files(path):
        try:
            mode = file.stat().st_mode
        except OSError:
            if file.suffix in READ:
                return f"{file.name} is a link without its target: download the model again"
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return f"{file.name} is not a regular file"
        if file.suffix in READ and not os.access(file, os.R_OK):
            return f"{file.name} cannot be read: {os.strerror(errno.EACCES)}"
    return None


def _implausible(config: dict[str, Any]) -> str | None:
    """Return what in a `config.json` has a wrong type or an absurd size; `None` for nothing."""
    parts: list[dict[str, Any]] = [config]
    while parts:
        part = parts.pop()
        for key, value in part.items():
            if key in _OBJECTS and not (value is None or isinstance(value, dict)):
                return f"'{key}' in its config.json is not an object"
            if isinstance(value, dict):
                parts.append(cast(dict[str, Any], value))
            most = _MOST.get(key.rpartition("_")[2])
            if most is not None and isinstance(value, int | float) and not abs(value) <= most:
                return f"'{key}' in its config.json is {value}, which no model has"
    return None


def _candidates(config: MLXConfig) -> Iterator[tuple[str, Path]]:
    """Yield folders that may be models; those of the hub's cache have snapshots inside."""
    for root in config.folders:
        yield from _below(Path(os.path.expanduser(root)))
    yield from _below(imports_folder(config.cache_folder))
    if config.huggingface_cache:
        for folder in _subfolders(huggingface_cache()):
            if folder.name.startswith(_HUB):
                yield folder.name.removeprefix(_HUB).replace("--", "/"), folder


def _read_candidate(name: str, folder: Path, describe: Describe) -> tuple[Path, Model | str | None]:
    """Return the folder with the files of the model, and what `read_folder` says of it."""
    if folder.parent != huggingface_cache():
        return folder, read_folder(name, folder, describe)
    try:
        snapshot = _snapshot(folder)
    except (OSError, ValueError):
        return folder, "its snapshots cannot be read"
    if snapshot is not None:
        return snapshot, read_folder(name, snapshot, describe)
    return folder, "its download is not complete" if _files(folder / "blobs") else None


def _below(root: Path) -> Iterator[tuple[str, Path]]:
    """Folders `MODEL`, and `ORGANISATION/MODEL` where the first is no model."""
    for folder in _subfolders(root):
        yield folder.name, folder
        if not os.path.isfile(folder / "config.json"):
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
        return Path(os.path.expanduser(folder))
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache_home}/huggingface"
    return Path(os.path.expanduser(home)) / "hub"


def _subfolders(folder: Path) -> list[Path]:
    try:
        # Hidden folders are incomplete: a conversion is renamed at its end.
        return sorted(p for p in folder.iterdir() if p.name[0] != "." and os.path.isdir(p))
    except OSError:
        # A root that does not exist or is not readable has no models.
        return []


def _incomplete(path: Path, weights: list[Path]) -> str | None:
    """Return what the folder lacks, or has in a format that is not read; `None` for nothing."""
    if not weights:
        return _without_weights(path, "model*.safetensors")
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
        for number in range(1, min(int(count), _MOST_PARTS) + 1)
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


def _bundled_model(config: MLXConfig, describe: Describe) -> ModelFolder:
    """The bundled model, read from its folder once it has been converted."""
    source = find_gguf()
    name = EMBEDDED if source is not None else HUB_FALLBACK
    path = converted_folder(config.cache_folder)
    if path is not None and isinstance(model := read_folder(name, path, describe), Model):
        return ModelFolder(model, path)
    can: frozenset[Capability] = frozenset({"chat"})
    model = Model(name=name, context_length=8192, capabilities=can, lacks=lacks(can))
    if source is not None:
        size, origin = source.stat().st_size, f"sha256:{digest_of_wheel(source)}"
        model = replace(model, size_bytes=size, quantization="4-bit", origin=origin)
    return ModelFolder(model, None)
