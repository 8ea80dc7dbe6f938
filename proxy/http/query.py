"""Query strings as nested values, in the form of OpenAI's clients."""

from typing import Any, cast
from urllib.parse import parse_qsl

_MAX_NAMES = 100


def to_nested(query: bytes) -> dict[str, Any]:
    """Read `a=1&b[c]=2&d[]=3&d[]=4` as `{"a": "1", "b": {"c": "2"}, "d": ["3", "4"]}`.

    The last of several values counts, except in lists. Names beyond a hundred are left out.
    """
    nested: dict[str, Any] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True)[:_MAX_NAMES]:
        outer, _, inner = name.partition("[")
        before = nested.get(outer)
        if not inner.endswith("]"):
            nested[name] = value
        elif inner == "]":
            nested[outer] = [*cast(list[str], before), value] if type(before) is list else [value]
        else:
            key = {inner[:-1]: value}
            nested[outer] = cast(dict[str, str], before) | key if type(before) is dict else key
    return nested
