"""Ollama's store on this machine: which file holds a model's weights.

A manifest lists a model's layers by digest and kind; each is a file below `blobs`.

Source: https://github.com/ollama/ollama/tree/main/manifest
"""

import os
import re
from pathlib import Path

import msgspec
from msgspec import Struct

from adapters.errors import InvalidRequestError, ModelNotFoundError

_HOST, _NAMESPACE = "registry.ollama.ai", "library"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:-]*[A-Za-z0-9_])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KIND = "application/vnd.ollama.image."
_REFUSED = {
    "adapter": "a LoRA adapter on top of its weights",
    "projector": "a part of its own that reads images",
    "tensor": "the format of Ollama's own MLX runner",
}
"""What a model may have beside its weights, or in their place, that an import would lose."""


class StoredModel(Struct, frozen=True, kw_only=True):
    name: str
    """With its tag, as Ollama lists it."""
    weights: Path
    """A GGUF, named `sha256-…`."""


class _Layer(Struct):
    digest: str
    kind: str = msgspec.field(name="mediaType")


class _Manifest(Struct):
    layers: tuple[_Layer, ...]


def store_folders() -> tuple[Path, ...]:
    """Where Ollama keeps models: as told, the user's, and that of the service on Linux."""
    if given := os.environ.get("OLLAMA_MODELS"):
        return (Path(given),)
    return (Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"))


def find_stored(name: str, folders: tuple[Path, ...]) -> StoredModel:
    """
    Raises:
        ModelNotFoundError: no such tag in any of `folders`, or its file is gone.
        InvalidRequestError: it is more than one GGUF, or none; says what.
        OSError: the store cannot be read.
    """
    place = _place(name)
    for folder in folders:
        manifest = folder / "manifests" / place
        if manifest.is_file():
            weights = folder / "blobs" / _weights(name, manifest)
            if not weights.is_file():
                raise ModelNotFoundError(f"'{name}' is listed by Ollama, but its file is gone.")
            return StoredModel(name=_listed(place), weights=weights)
    raise ModelNotFoundError(f"Ollama's store has no '{name}'.")


def _place(name: str) -> Path:
    """`smollm2:135m` -> `registry.ollama.ai/library/smollm2/135m`."""
    owner, _, model = name.rpartition("/")
    model, _, tag = model.partition(":")
    host, _, namespace = owner.rpartition("/")
    parts = (host or _HOST, namespace or _NAMESPACE, model, tag or "latest")
    if not all(_PART.fullmatch(part) for part in parts):
        raise ModelNotFoundError(f"'{name}' is no name of an Ollama model.")
    return Path(*parts)


def _listed(place: Path) -> str:
    host, namespace, model, tag = place.parts
    if host != _HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == _NAMESPACE else f"{namespace}/{model}:{tag}"


def _weights(name: str, manifest: Path) -> str:
    """The file name of the one GGUF that the manifest lists."""
    try:
        layers = msgspec.json.decode(manifest.read_bytes(), type=_Manifest).layers
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"Ollama's manifest of '{name}' makes no sense.") from error
    for kind, what in _REFUSED.items():
        if any(layer.kind == _KIND + kind for layer in layers):
            raise InvalidRequestError(f"'{name}' has {what}; that cannot be imported.")
    found = [layer.digest for layer in layers if layer.kind == f"{_KIND}model"]
    if len(found) != 1 or not _DIGEST.fullmatch(found[0]):
        raise InvalidRequestError(f"'{name}' has {len(found)} files of weights, not one.")
    return found[0].replace(":", "-")
