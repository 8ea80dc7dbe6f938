"""Form of a YAML file: few levels, and each key is a text, and is there once.

YAML forbids repeated keys, of which PyYAML takes the last.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_parse: Any = getattr(yaml, "parse")  # noqa: B009 - it has no types
_TEXTS = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"})
"""Tags of a text, and of `<<`."""

_MOST_LEVELS = 64
"""The settings have six. libyaml needs the square of the levels in time, and its nodes are made by
functions that call themselves: some 50,000 levels exceed the stack and end the process."""


def find_excess_depth(text: bytes) -> int | None:
    """Return the line at which YAML exceeds `_MOST_LEVELS`, before anything else reads it.

    It is `None` where it does not, or is no YAML before that.
    """
    depth = 0
    with suppress(yaml.YAMLError, ValueError):
        for event in _parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_LEVELS:
                return event.start_mark.line + 1
    return None


def check_keys(text: bytes) -> None:
    """Check YAML that can be decoded.

    Raises:
        ValueError: a mapping has a key twice, or one that is not a text; the message begins with
            its path.
    """
    root: yaml.Node | None = _Loader(text).get_single_node()
    for problem in _problems(root, "$", set()):
        raise ValueError(problem)


def _problems(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    """Yield what is wrong with the keys below `node`."""
    if id(node) in seen:  # An alias of YAML: the same node in another place.
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for at, member in enumerate(node.value):
            yield from _problems(member, f"{path}[{at}]", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for node_of_key, value in node.value:
            name, line = str(node_of_key.value), node_of_key.start_mark.line + 1
            key = f"{path}.{name}"
            if name in lines:
                yield f"{key}: this key is set twice, in line {lines[name]} and in line {line}"
            if node_of_key.tag not in _TEXTS:
                yield f"{key}: this key is not a text; write '{name}'"
            lines[name] = line
            yield from _problems(value, key, seen)
