"""What a model can do, from its files alone: no mlx, no transformers, nothing loaded."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

from msgspec import Struct

from adapters.backend import Capability
from adapters.mlx.embedding.files import is_embedding
from adapters.mlx.models.fim import find_infill
from adapters.mlx.output.reasoning import MARKERS, reasoning_of_template
from adapters.mlx.output.tool_calls import syntax_of_template
from adapters.request import Feature

_READ = (
    "config.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)

_BEFORE = frozenset({b'"', '"▁'.encode(), b'"\\u2581'})
"""What stands before the angle bracket of a marker, as JSON has it."""
_LONGEST = max(map(len, _BEFORE))

_EMBEDDING_HAS: frozenset[Feature] = frozenset({"embeddings", "tokens", "keep_alive"})


class _Stamp(Struct, frozen=True):
    """Another edition of the files has another stamp."""

    path: str
    name: str
    files: tuple[tuple[int, int] | None, ...]
    """Time in nanoseconds and bytes of each file that is read."""


def capabilities(name: str, path: Path, config: dict[str, Any]) -> frozenset[Capability]:
    """Read once for each edition of the files: the vocabularies have megabytes."""
    if is_embedding(name, path, config):
        return frozenset({"embedding"})
    return _generating(_stamp(name, path))


def lacks(capabilities: frozenset[Capability]) -> frozenset[Feature]:
    """The features this model is without, whatever the backend can."""
    if "embedding" in capabilities:
        return frozenset(get_args(Feature)) - _EMBEDDING_HAS
    needed: dict[Feature, Capability] = {
        "reasoning_effort": "reasoning",
        "suffix": "fim",
        "images": "vision",
        "embeddings": "embedding",
    }
    return frozenset(each for each, capability in needed.items() if capability not in capabilities)


def _stamp(name: str, path: Path) -> _Stamp:
    return _Stamp(str(path), name, tuple(_edition(path / file) for file in _READ))


def _edition(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=2048)
def _generating(stamp: _Stamp) -> frozenset[Capability]:
    path = Path(stamp.path)
    template, vocabulary = chat_template(path), _Words(path)
    found: dict[Capability, bool] = {
        "chat": bool(template),
        "tools": bool(template) and syntax_of_template(template) is not None,
        "reasoning": _reasons(template, vocabulary),
        "fim": find_infill(vocabulary) is not None,
    }
    return frozenset(each for each, has in found.items() if has)


def _reasons(template: str, vocabulary: "_Words") -> bool:
    if reasoning_of_template(template) is not None:
        return True
    return any(start in vocabulary and end in vocabulary for start, end in MARKERS)


def chat_template(path: Path) -> str:
    """The templates' text, all of them where a model has several; "" where it has none."""
    try:
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return _template_of_tokenizer(path / "tokenizer_config.json")


def _template_of_tokenizer(file: Path) -> str:
    try:
        about = cast(dict[str, Any], json.loads(file.read_bytes()))
        said = about.get("chat_template")
        named = cast(list[dict[str, str]], said) if isinstance(said, list) else []
        return said if isinstance(said, str) else "\n".join(each["template"] for each in named)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


class _Words:
    """The tokens in brackets that the tokenizer's files name, found in their bytes: parsing them is
    far slower, and so is to look for one token after another."""

    def __init__(self, path: Path) -> None:
        files = (path / "tokenizer.json", path / "tokenizer_config.json")
        self._tokens = frozenset(each for file in files for each in _bracketed(_bytes_of(file)))

    def __contains__(self, token: object) -> bool:
        return any(
            json.dumps(token, ensure_ascii=escaped).encode() in self._tokens
            for escaped in (True, False)
        )


def _bracketed(data: bytes) -> Iterator[bytes]:
    """The JSON strings that begin like a marker, quotes included."""
    # A byte alone is found twenty times as fast as two; but lists of merges are full of brackets.
    for at in _places(data, b"<"):
        begin = data.rfind(b'"', max(at - _LONGEST, 0), at)
        if data[begin:at] in _BEFORE:
            yield data[begin : data.find(b'"', at) + 1]
    for at in _places(data, b'"['):
        yield data[at : data.find(b'"', at + 1) + 1]


def _places(data: bytes, wanted: bytes) -> Iterator[int]:
    at = data.find(wanted)
    while at >= 0:
        yield at
        at = data.find(wanted, at + 1)


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
