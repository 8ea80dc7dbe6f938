"""Detect the capabilities of a model from its files, without mlx or transformers."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

from msgspec import Struct

from adapters.backend import Capability
from adapters.chat_template.confined import TemplateLimitError
from adapters.chat_template.folder import renderer_name
from adapters.mlx.audio.kinds import audio_kind
from adapters.mlx.embedding.files import is_embedding
from adapters.mlx.models.fim import find_infill
from adapters.mlx.output.reasoning import MARKERS
from adapters.mlx.prompt.learned import learn_from_folder
from adapters.mlx.vision.support import sight_of
from adapters.request import Feature

_FILES = (
    "config.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
)

_BEFORE = frozenset({b'"', '"▁'.encode(), b'"\\u2581'})
"""JSON text before the angle bracket of a marker."""
_LONGEST = max(map(len, _BEFORE))

AUDIO: frozenset[Capability] = frozenset({"speech", "transcription"})
_AUDIO_FEATURES: frozenset[Feature] = frozenset({"keep_alive"})
_EMBEDDING_FEATURES: frozenset[Feature] = frozenset({"embeddings", "tokens", "keep_alive"})


class _Stamp(Struct, frozen=True):
    """Cache key that changes with the files."""

    path: str
    name: str
    files: tuple[tuple[int, int] | None, ...]
    """Time in nanoseconds and bytes of each of `_FILES`."""


def capabilities(name: str, path: Path, config: dict[str, Any]) -> frozenset[Capability]:
    """The capabilities of the model in `path`; cached, because vocabularies have megabytes.

    Raises:
        TemplateLimitError: its chat template cannot be rendered within the limits.
    """
    if is_embedding(name, path, config):
        return frozenset({"embedding"})
    if (audio := audio_kind(name, config)) is not None:
        return frozenset({audio.capability})
    can = _description(name, path).capabilities
    sees: set[Capability] = {"vision"} if sight_of(path, config) == "supported" else set()
    return can | sees if "chat" in can else can


def template_notes(name: str, path: Path) -> tuple[str, ...]:
    """Return `Model.template` of a model that generates; cached like its capabilities."""
    return _description(name, path).template


def _description(name: str, path: Path) -> "_Description":
    result = _describe(_stamp(name, path))
    if isinstance(result, TemplateLimitError):
        raise result.with_traceback(None)
    return result


def _stamp(name: str, path: Path) -> _Stamp:
    return _Stamp(str(path), name, tuple(_time_and_size(path / file) for file in _FILES))


def lacks(capabilities: frozenset[Capability]) -> frozenset[Feature]:
    """Features that this model does not support, whatever its backend supports."""
    if "embedding" in capabilities:
        return frozenset(get_args(Feature)) - _EMBEDDING_FEATURES
    if not AUDIO.isdisjoint(capabilities):
        return frozenset(get_args(Feature)) - _AUDIO_FEATURES
    needed: dict[Feature, Capability] = {
        "reasoning_effort": "reasoning",
        "reasoning_budget": "reasoning",
        "suffix": "fim",
        "images": "vision",
        "embeddings": "embedding",
    }
    return frozenset(f for f, capability in needed.items() if capability not in capabilities)


def _time_and_size(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


class _Description(NamedTuple):
    capabilities: frozenset[Capability]
    template: tuple[str, ...]


@lru_cache(maxsize=2048)
def _describe(stamp: _Stamp) -> _Description | TemplateLimitError:
    """Return the error, so that it is cached too: a template that loops is tried once."""
    path = Path(stamp.path)
    try:
        learned = learn_from_folder(path)
    except TemplateLimitError as error:
        return error
    vocabulary = _MarkerTokens(path)
    detected: dict[Capability, bool] = {
        "chat": learned is not None or renderer_name(path) is not None,
        "tools": learned is not None and learned.has_tools,
        "reasoning": (learned is not None and learned.markers is not None)
        or any(start in vocabulary and end in vocabulary for start, end in MARKERS),
        "fim": find_infill(vocabulary) is not None,
    }
    can: frozenset[Capability] = frozenset(name for name, has in detected.items() if has)
    return _Description(can, () if learned is None else learned.notes)


class _MarkerTokens:
    """The tokens in brackets in a tokenizer's files, found in their bytes: parsing the files is far
    slower, and so is searching them for one token after another."""

    def __init__(self, path: Path) -> None:
        tokens: set[bytes] = set()
        for file in (path / "tokenizer.json", path / "tokenizer_config.json"):
            try:
                tokens.update(_bracketed(file.read_bytes()))
            except OSError:
                continue  # A tokenizer may lack either file.
        self._tokens = frozenset(tokens)

    def __contains__(self, token: object) -> bool:
        return any(
            json.dumps(token, ensure_ascii=escaped).encode() in self._tokens
            for escaped in (True, False)
        )


def _bracketed(data: bytes) -> Iterator[bytes]:
    """JSON strings that begin like a marker, quotes included."""
    # Searching for one byte is 20 times as fast as for two; but merges have many square brackets.
    for at in _positions(data, b"<"):
        begin = data.rfind(b'"', max(at - _LONGEST, 0), at)
        if data[begin:at] in _BEFORE:
            yield data[begin : data.find(b'"', at) + 1]
    for at in _positions(data, b'"['):
        yield data[at : data.find(b'"', at + 1) + 1]


def _positions(data: bytes, text: bytes) -> Iterator[int]:
    at = data.find(text)
    while at >= 0:
        yield at
        at = data.find(text, at + 1)
