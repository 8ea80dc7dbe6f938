"""Parse `keep_alive` and `ttl`: how long a model stays loaded, in Ollama's and LM Studio's form.

Source: https://pkg.go.dev/time#ParseDuration, which Ollama uses.
"""

import re

from adapters.errors import InvalidRequestError

KeepAlive = int | float | str

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PIECE = r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)"
_DURATION = re.compile(rf"[+-]?(?:0|(?:{_PIECE})+)", re.ASCII)


def to_keep_alive(keep_alive: KeepAlive | None, ttl: float | None) -> float | None:
    """The seconds that a model stays loaded unused; negative: for ever, `None`: not given.

    Raises:
        InvalidRequestError: `keep_alive` is not a duration, or differs from `ttl`.
    """
    seconds = _to_seconds(keep_alive) if isinstance(keep_alive, str) else keep_alive
    if ttl is not None and seconds is not None and ttl != seconds:
        raise InvalidRequestError("'ttl' conflicts with 'keep_alive'.", param="ttl")
    return ttl if seconds is None else seconds


def _to_seconds(text: str) -> float:
    """`1h30m` -> 5400.0"""
    if len(text) > 40 or not _DURATION.fullmatch(text):
        raise InvalidRequestError(
            "'keep_alive' must be a number of seconds or a duration such as '5m' or '1h30m'.",
            param="keep_alive",
        )
    seconds = sum(float(count) * _UNITS[unit] for count, unit in re.findall(_PIECE, text))
    return -seconds if text.startswith("-") else seconds
