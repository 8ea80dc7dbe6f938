"""Benchmark results on disk: one JSON file for each model and its weights."""

import hashlib
import logging
import os
import re
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from adapters.config import make_private_folder
from proxy.bench.results import Result

log = logging.getLogger("tandem")

_FORMAT = 1
"""Version of the file format. Files of other versions are neither read nor changed."""
_MAX_SLUG_LENGTH = 60


class _Envelope(Struct):
    format: int
    result: Raw


class Archive:
    """Folder of benchmark results, written by `tandem bench MODEL` and read by the server."""

    def __init__(self, state_folder: Path) -> None:
        self._folder = state_folder / "benchmarks"
        self._warned: dict[Path, str] = {}

    def save(self, result: Result) -> Path:
        """Write `result`, replacing an earlier one of the same model with the same weights.

        Returns the path of the file.

        Raises:
            OSError: the folder is not writable.
        """
        make_private_folder(self._folder)
        path = self._folder / f"{stem(result)}.json"
        envelope = _Envelope(_FORMAT, Raw(msgspec.json.encode(result)))
        content = msgspec.json.format(msgspec.json.encode(envelope))
        # A rename is atomic: concurrent readers get the old file or the new one.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
        return path

    def results(self) -> list[Result]:
        """Read all results, newest first. Unreadable files are skipped with a warning."""
        results: list[Result] = []
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                results.append(_decode(path.read_bytes()))
            except (OSError, ValueError) as exc:
                self._warn(path, str(exc))
        return sorted(results, key=lambda result: result.measured_at, reverse=True)

    def _warn(self, path: Path, reason: str) -> None:
        """Log each reason once: a web page may poll every second."""
        if self._warned.get(path) != reason:
            log.warning("Benchmark file %s is ignored: %s", path, reason)
        self._warned[path] = reason


def _decode(content: bytes) -> Result:
    """Decode a benchmark file.

    Raises:
        ValueError: the content is not a benchmark, or has another format version.
    """
    envelope = msgspec.json.decode(content, type=_Envelope)
    if envelope.format != _FORMAT:
        raise ValueError(f"format {envelope.format} is not supported, only {_FORMAT}")
    return msgspec.json.decode(envelope.result, type=Result)


def stem(result: Result) -> str:
    """Return the file name of `result` without suffix: the model's name and a digest.

    The digest covers the model and the weights measured under its name.
    """
    identity = msgspec.json.encode((result.model, result.contestants))
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", result.model).strip("-.")[:_MAX_SLUG_LENGTH]
    return f"{slug}-{hashlib.sha256(identity).hexdigest()[:12]}"
