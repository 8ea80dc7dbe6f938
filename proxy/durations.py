"""Durations in Ollama's form: `5m`, `1h30m`.

Source: https://pkg.go.dev/time#ParseDuration, which Ollama uses.
"""

import re

_PIECE = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us|µs|ns)"
PATTERN = rf"[+-]?(?:0|(?:{_PIECE})+)"
_DURATION = re.compile(PATTERN)
_LONGEST = 40
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def to_seconds(text: str) -> float | None:
    """`1h30m` -> 5400.0; `None`: it is no duration."""
    if len(text) > _LONGEST or not _DURATION.fullmatch(text):
        return None
    seconds = sum(float(count) * _UNITS[unit] for count, unit in re.findall(_PIECE, text))
    return -seconds if text.startswith("-") else seconds
