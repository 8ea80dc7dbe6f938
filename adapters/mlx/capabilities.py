"""What a model can do, from its files alone: no mlx, no transformers, nothing loaded."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

from msgspec import Struct

from adapters.backend import Capability
from adapters.mlx.embedding.files import is_embedding
from adapters.mlx.infill import find_infill
from adapters.mlx.reasoning import MARKERS, reasoning_of_template
from adapters.mlx.tool_calls import syntax_of_template
from adapters.request import Feature

_READ = (
    "config.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)

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
    """The tokens that the tokenizer's files name, found in their bytes: parsing is far slower."""

    def __init__(self, path: Path) -> None:
        self._bytes = [_bytes_of(path / file) for file in ("tokenizer.json", _READ[3])]

    def __contains__(self, token: object) -> bool:
        forms = {json.dumps(token, ensure_ascii=escaped).encode() for escaped in (True, False)}
        return any(form in each for form in forms for each in self._bytes)


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
