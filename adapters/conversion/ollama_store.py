"""Find the weights of a model in Ollama's store on this machine.

A manifest lists a model's layers by digest and kind; each is a file below `blobs`.

Source: https://github.com/ollama/ollama/tree/main/manifest
"""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from adapters.errors import InvalidRequestError, ModelNotFoundError
from adapters.recommended_sampling import RecommendedSampling

_HOST, _NAMESPACE = "registry.ollama.ai", "library"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:-]*[A-Za-z0-9_])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KIND = "application/vnd.ollama.image."
_UNSUPPORTED = {
    "adapter": "a LoRA adapter",
    "projector": "a separate image encoder",
    "tensor": "the format of Ollama's own MLX runner",
}
"""Kinds of layers, beside the weights or instead of them, that an import would lose."""

_PARTS = {"system": "SYSTEM", "template": "TEMPLATE", "messages": "MESSAGE"}
"""Kinds of layers that an MLX folder has no place for, by their instruction in a Modelfile."""


class StoredModel(Struct, frozen=True, kw_only=True):
    name: str
    """Name with tag, as listed by Ollama."""
    weights: Path
    """The GGUF, a file `sha256-…`."""
    sampling: RecommendedSampling | None = None
    """The parameters of the Modelfile; `None`: it has none of these."""
    stops: tuple[str, ...] = ()
    """Its stop strings."""
    other_parts: tuple[str, ...] = ()
    """Further parts of the Modelfile, as `SYSTEM`, that an MLX folder has no place for."""


class _Layer(Struct):
    digest: str
    kind: str = msgspec.field(name="mediaType")


class _Manifest(Struct):
    layers: tuple[_Layer, ...]


def store_folders() -> tuple[Path, ...]:
    """Folders of Ollama's models: the configured one, or the user's and the Linux service's."""
    if folder := os.environ.get("OLLAMA_MODELS"):
        return (Path(folder),)
    return (Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"))


def find_stored(name: str, folders: tuple[Path, ...]) -> StoredModel:
    """Find the weights of a model.

    Raises:
        ModelNotFoundError: no such tag in any of `folders`, or its file is missing.
        InvalidRequestError: the model is not exactly one GGUF; the message says what it has.
        OSError: the store cannot be read.
    """
    owner, _, model = name.rpartition("/")
    model, _, tag = model.partition(":")
    host, _, namespace = owner.rpartition("/")
    parts = (host or _HOST, namespace or _NAMESPACE, model, tag or "latest")
    if not all(_PART.fullmatch(part) for part in parts):
        raise ModelNotFoundError(f"'{name}' is not a valid name of an Ollama model.")
    path = Path(*parts)
    for folder in folders:
        manifest = folder / "manifests" / path
        if manifest.is_file():
            layers, blobs = _read_layers(name, manifest), folder / "blobs"
            weights = blobs / _weights(name, layers)
            if not weights.is_file():
                raise ModelNotFoundError(f"Ollama lists '{name}', but its file is missing.")
            parameters = _parameters(name, layers, blobs)
            return StoredModel(
                name=_listed_name(path),
                weights=weights,
                sampling=_sampling(name, parameters),
                stops=_stops(name, parameters),
                other_parts=_other_parts(layers, parameters),
            )
    raise ModelNotFoundError(f"Ollama's store has no '{name}'.")


def _listed_name(manifest: Path) -> str:
    host, namespace, model, tag = manifest.parts
    if host != _HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == _NAMESPACE else f"{namespace}/{model}:{tag}"


def _read_layers(name: str, manifest: Path) -> tuple[_Layer, ...]:
    try:
        layers = msgspec.json.decode(manifest.read_bytes(), type=_Manifest).layers
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"Ollama's manifest of '{name}' cannot be read.") from error
    if any(not _DIGEST.fullmatch(layer.digest) for layer in layers):
        raise InvalidRequestError(f"A digest in Ollama's manifest of '{name}' is malformed.")
    return layers


def _weights(name: str, layers: tuple[_Layer, ...]) -> str:
    """File name of the only GGUF among `layers`."""
    for kind, description in _UNSUPPORTED.items():
        if any(layer.kind == _KIND + kind for layer in layers):
            raise InvalidRequestError(f"'{name}' has {description}, which cannot be imported.")
    digests = [layer.digest for layer in layers if layer.kind == f"{_KIND}model"]
    if len(digests) != 1:
        raise InvalidRequestError(f"'{name}' has {len(digests)} files of weights, not one.")
    return _file_name(digests[0])


def _parameters(name: str, layers: tuple[_Layer, ...], blobs: Path) -> dict[str, Any]:
    digest = next((layer.digest for layer in layers if layer.kind == f"{_KIND}params"), None)
    if digest is None:
        return {}
    with _readable(name):
        return msgspec.json.decode((blobs / _file_name(digest)).read_bytes(), type=dict[str, Any])


def _sampling(name: str, parameters: dict[str, Any]) -> RecommendedSampling | None:
    """Return those parameters of the Modelfile that MLX has, too."""
    with _readable(name):
        sampling = msgspec.convert(parameters, RecommendedSampling)
    return None if sampling == RecommendedSampling() else sampling


def _stops(name: str, parameters: dict[str, Any]) -> tuple[str, ...]:
    with _readable(name):
        return msgspec.convert(parameters.get("stop", ()), tuple[str, ...])


@contextmanager
def _readable(name: str) -> Generator[None]:
    try:
        yield
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise InvalidRequestError(f"The parameters of '{name}' cannot be read: {error}") from error


def _other_parts(layers: tuple[_Layer, ...], parameters: dict[str, Any]) -> tuple[str, ...]:
    kinds = {layer.kind.removeprefix(_KIND) for layer in layers}
    parts = [name for kind, name in _PARTS.items() if kind in kinds]
    known = {"stop", *RecommendedSampling.__struct_fields__}
    return (*parts, *(f"PARAMETER {name}" for name in sorted(parameters.keys() - known)))


def _file_name(digest: str) -> str:
    return digest.replace(":", "-")
