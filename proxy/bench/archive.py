"""Benchmarks of models, kept for the server to tell of: one file for each model and its weights."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from proxy.bench.results import Result

log = logging.getLogger("tandem")

_FORMAT = 1
"""Counted up when what is kept changes its meaning: files of another number are left alone."""
_LONGEST_SLUG = 60


class _Envelope(Struct):
    format: int
    result: Raw


class Archive:
    def __init__(self, state_folder: Path) -> None:
        self._folder = state_folder / "benchmarks"
        self._warned: dict[Path, str] = {}

    def save(self, result: Result) -> Path:
        """Keep `result` in place of an earlier one of the same model with the same weights.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{stem(result)}.json"
        envelope = _Envelope(_FORMAT, Raw(msgspec.json.encode(result)))
        whole = msgspec.json.format(msgspec.json.encode(envelope))
        # Who reads meanwhile has the old one or the new one.
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_bytes(whole)
        part.replace(path)
        return path

    def results(self) -> list[Result]:
        """The newest first. What cannot be read is passed over, and the log says so."""
        return sorted(self._read(), key=lambda result: result.measured_at, reverse=True)

    def _read(self) -> Iterator[Result]:
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                yield _decode(path.read_bytes())
            except (OSError, ValueError) as exc:
                self._warn(path, str(exc))

    def _warn(self, path: Path, why: str) -> None:
        """Once for each reason: a page may ask every second."""
        if self._warned.get(path) != why:
            log.warning("The benchmark %s is passed over: %s", path, why)
        self._warned[path] = why


def _decode(whole: bytes) -> Result:
    """
    Raises:
        ValueError: it is no benchmark, or one of another version.
    """
    envelope = msgspec.json.decode(whole, type=_Envelope)
    if envelope.format != _FORMAT:
        raise ValueError(f"it has format {envelope.format}, and {_FORMAT} is read")
    return msgspec.json.decode(envelope.result, type=Result)


def stem(result: Result) -> str:
    """A name for its files: the model's, and a digest of what was measured under that name."""
    identity = msgspec.json.encode((result.model, result.contestants))
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", result.model).strip("-.")[:_LONGEST_SLUG]
    return f"{slug}-{hashlib.sha256(identity).hexdigest()[:12]}"
