"""Keys that a YAML file sets twice: YAML forbids them, and PyYAML takes the last one."""

from collections.abc import Iterator
from typing import Any

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_unique_keys(text: bytes) -> None:
    """Check YAML that can be decoded.

    Raises:
        ValueError: a mapping has a key twice; the text begins with its path.
    """
    root: yaml.Node | None = _Loader(text).get_single_node()
    for path, first, second in _repeated(root, "$", set()):
        raise ValueError(f"{path}: this key is set twice, in line {first} and in line {second}")


def _repeated(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Yield path and lines of each repeated key below `node`."""
    if id(node) in seen:  # An alias of YAML: the same node in another place.
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for at, member in enumerate(node.value):
            yield from _repeated(member, f"{path}[{at}]", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                yield f"{path}.{name}", lines[name], line
            lines[name] = line
            yield from _repeated(value, f"{path}.{name}", seen)
