"""Compare rendered conversations: what they share at their beginning and end."""

import re
from collections.abc import Iterator

MARKER = re.compile(r"<[^<>\s]{1,80}>|\[/?[A-Z_]{2,}\]|\]<\]\w+\[>\[")
"""A text that is one token, or is meant as one: it is never cut."""


def plain_shared_end(a: str, b: str) -> int:
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def shared(a: str, b: str) -> int:
    """Return the length of the common beginning, without a part of a marker."""
    pairs = zip(a, b, strict=False)
    length = next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
    cuts = [m.start() for t in (a, b) for m in _around(t, length)]
    return min([length, *cuts])


def shared_end(a: str, b: str) -> int:
    """Return the length of the common end, without a part of a marker."""
    length = plain_shared_end(a, b)
    cuts = [len(t) - m.end() for t in (a, b) for m in _around(t, len(t) - length)]
    return min([length, *cuts])


def _around(text: str, at: int) -> Iterator[re.Match[str]]:
    """Yield the marker in `text` that has this position inside."""
    return (match for match in MARKER.finditer(text) if match.start() < at < match.end())
