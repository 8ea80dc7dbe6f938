"""Detect the capabilities of a model from its files, without mlx or transformers."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, get_args

from msgspec import Struct

from adapters.backend import Capability
from adapters.chat_template.confined import TemplateLimitError
from adapters.chat_template.folder import read_templates, renderer_name
from adapters.chat_template.thought_markers import MARKERS, markers_of_template
from adapters.mlx.audio.kinds import audio_kind
from adapters.mlx.embedding.files import is_embedding
from adapters.mlx.models.fim import find_infill
from adapters.mlx.output.tool_calls.syntax import syntax_of_template
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

_THREADS = 2
"""Templates that are tried at a time in the background."""
_BY_TEMPLATE: frozenset[Capability] = frozenset({"tools", "reasoning", "fim"})
"""Capabilities that are known once a template was rendered and a vocabulary was searched."""

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


class TemplateDescription(Struct, frozen=True):
    """Abilities of a model that generates, by its chat template and its vocabulary."""

    capabilities: frozenset[Capability]
    notes: tuple[str, ...] = ()
    """See `Model.template`."""
    possible: frozenset[Capability] = frozenset()
    """Further capabilities that it may have, until the templates were rendered."""


Describe = Callable[[str, Path], TemplateDescription]
"""Describes the model of this name in this folder."""


def describe_template(name: str, path: Path) -> TemplateDescription:
    """Render the templates in `path`, and search its vocabulary; cached.

    Raises:
        TemplateLimitError: the chat template cannot be rendered within the limits.
    """
    result = _describe(_stamp(name, path))
    if isinstance(result, TemplateLimitError):
        raise result.with_traceback(None)
    return result


class BackgroundDescriptions:
    """Descriptions made on threads, so that one that takes seconds delays no other model."""

    def __init__(self, describe: Describe = describe_template) -> None:
        self._describe = describe
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mlx-templates")
        self._lock = Lock()
        self._futures: dict[_Stamp, Future[TemplateDescription]] = {}

    def known(self, name: str, path: Path) -> TemplateDescription:
        """Return the description; until it is made, what the text of the template tells.

        Raises:
            TemplateLimitError: as `describe_template`.
        """
        future = self._begin(name, path)
        return future.result() if future.done() else _guess(path)

    def complete(self, name: str, path: Path) -> TemplateDescription:
        """Wait for the description, and return it.

        Raises:
            TemplateLimitError: as `describe_template`.
        """
        return self._begin(name, path).result()

    def _begin(self, name: str, path: Path) -> Future[TemplateDescription]:
        stamp = _stamp(name, path)
        with self._lock:
            future = self._futures.get(stamp)
            if future is None or _may_pass(future):
                future = self._threads.submit(self._describe, name, path)
                self._futures[stamp] = future
            return future

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _may_pass(future: Future[TemplateDescription]) -> bool:
    """Return whether the description failed for a reason that another attempt may not have."""
    failure = future.exception() if future.done() else None
    return failure is not None and not isinstance(failure, TemplateLimitError)


def _guess(path: Path) -> TemplateDescription:
    texts = read_templates(path)
    text = "\n".join(texts.values())
    detected: dict[Capability, bool] = {
        "chat": bool(texts) or renderer_name(path) is not None,
        "tools": syntax_of_template(text) is not None,
        "reasoning": markers_of_template(text) is not None,
    }
    can = _true_ones(detected)
    return TemplateDescription(can, possible=_BY_TEMPLATE - can)


def _true_ones(detected: dict[Capability, bool]) -> frozenset[Capability]:
    return frozenset(capability for capability, has in detected.items() if has)


def capabilities(
    name: str, path: Path, config: dict[str, Any], describe: Describe = describe_template
) -> frozenset[Capability]:
    """The capabilities of the model in `path`.

    Raises:
        TemplateLimitError: as `describe`.
    """
    if is_embedding(name, path, config):
        return frozenset({"embedding"})
    if (audio := audio_kind(name, config)) is not None:
        return frozenset({audio.capability})
    can = describe(name, path).capabilities
    sees: set[Capability] = {"vision"} if sight_of(path, config) == "supported" else set()
    return can | sees if "chat" in can else can


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


@lru_cache(maxsize=2048)
def _describe(stamp: _Stamp) -> TemplateDescription | TemplateLimitError:
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
    return TemplateDescription(_true_ones(detected), () if learned is None else learned.notes)


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
