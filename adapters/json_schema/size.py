"""The largest schema that is read, on any engine."""

from typing import Any, cast

import msgspec

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64


def why_too_large(schema: Any) -> str | None:
    """Return the limit that `schema` exceeds, as a sentence, or `None`."""
    if len(msgspec.json.encode(schema)) > MAX_BYTES:
        return f"The schema is larger than {MAX_BYTES // 1024} KB."
    if _is_deeper(schema):
        return f"The schema is nested deeper than {MAX_DEPTH} levels."
    return None


def _is_deeper(schema: Any) -> bool:
    """Look level by level: recursion could exhaust the stack."""
    level = _containers([schema])
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _containers(outer)]
    return bool(level)


def _containers(value: Any) -> list[Any]:
    """Return the lists and objects in a list or an object."""
    inner = cast(Any, value.values() if isinstance(value, dict) else value)
    return [each for each in inner if isinstance(each, (dict, list))]
