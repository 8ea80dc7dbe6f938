"""Where a schema's `$ref` lead, and how often a recursive one must be followed to get out again."""

# pyright: basic
# JSON is free until it has been checked: strict typing would have nothing to hold on to.
from collections.abc import Iterator
from math import inf
from typing import Any
from urllib.parse import unquote

from adapters.errors import InvalidRequestError

Node = Any
"""A schema: an object, or True for anything and False for nothing."""

ROOT = "#"
MAPS = ("properties", "patternProperties")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
SINGLES = ("items", "additionalItems", "additionalProperties")
_SCALARS = {"null", "boolean", "integer", "number", "string"}


def subschemas(node: Node) -> Iterator[Node]:
    """The schemas that stand directly in `node`; definitions are reached through `$ref` only."""
    if not isinstance(node, dict):
        return
    schema: dict[str, Any] = node
    for keyword, value in schema.items():
        if keyword in MAPS and isinstance(value, dict):
            yield from value.values()
        elif keyword in (*LISTS, *SINGLES):
            yield from value if isinstance(value, list) else (value,)


class References:
    """The references of one document, as a graph from pointer to pointer."""

    def __init__(self, document: Node) -> None:
        """
        Raises:
            InvalidRequestError: a reference leads nowhere or out of the document, or what it
                describes never ends.
        """
        self._document = document
        self._nodes: dict[str, Node] = {}
        self._targets: dict[str, set[str]] = {}
        self._closing: set[tuple[str, str]] = set()
        self._explore()
        self._heights = self._measure()
        if self._heights[ROOT] == inf:
            raise InvalidRequestError("The schema describes nothing that ends.")

    def node(self, pointer: str) -> Node:
        return self._nodes[pointer]

    def cost(self, source: str, target: str) -> int:
        """1 where following the reference closes a circle, else 0."""
        return int((source, target) in self._closing)

    def height(self, pointer: str) -> float:
        """How many circles the smallest instance of `pointer` goes round."""
        return self._heights[pointer]

    def _explore(self) -> None:
        """Depth first, without recursion of our own: chains of references may be long."""
        open_pointers: set[str] = set()
        stack: list[tuple[str, Iterator[str]]] = []

        def enter(pointer: str) -> None:
            self._nodes[pointer] = _resolve(self._document, pointer)
            self._targets[pointer] = set(_references(self._nodes[pointer]))
            open_pointers.add(pointer)
            stack.append((pointer, iter(sorted(self._targets[pointer]))))

        enter(ROOT)
        while stack:
            pointer, targets = stack[-1]
            target = next(targets, None)
            if target is None:
                open_pointers.discard(pointer)
                stack.pop()
            elif target in open_pointers:
                self._closing.add((pointer, target))
            elif target not in self._nodes:
                enter(target)

    def _measure(self) -> dict[str, float]:
        heights: dict[str, float] = dict.fromkeys(self._nodes, inf)
        while True:
            found = {p: self._height_of(node, p, heights) for p, node in self._nodes.items()}
            if found == heights:
                return heights
            heights = found

    def _height_of(self, node: Node, source: str, heights: dict[str, float]) -> float:
        """The least over alternatives, the most over what must all be there."""
        if not isinstance(node, dict):
            return inf if node is False else 0
        schema: dict[str, Any] = node
        parts: list[float] = [0]
        if "$ref" in schema:
            target = schema["$ref"]
            parts.append(heights[target] + self.cost(source, target))
        parts += [self._height_of(each, source, heights) for each in schema.get("allOf", ())]
        for keyword in ("anyOf", "oneOf"):
            if options := schema.get(keyword):
                parts.append(min(self._height_of(each, source, heights) for each in options))
        parts += [self._height_of(each, source, heights) for each in _compulsory(schema)]
        return max(parts)


def _compulsory(schema: dict[str, Any]) -> Iterator[Node]:
    """What an instance cannot be without."""
    kinds = schema.get("type")
    if isinstance(kinds, list) and _SCALARS & set(map(str, kinds)):
        return
    properties = schema.get("properties", {})
    yield from (properties[name] for name in schema.get("required", ()) if name in properties)
    least = schema.get("minItems", 0)
    first = list(schema.get("prefixItems", ()))
    yield from first[:least]
    if least > len(first) and "items" in schema:
        yield schema["items"]


def _references(node: Node) -> Iterator[str]:
    if isinstance(node, dict) and "$ref" in node:
        yield str(node["$ref"])
    for child in subschemas(node):
        yield from _references(child)


def _resolve(document: Node, pointer: str) -> Node:
    """Source: https://www.rfc-editor.org/rfc/rfc6901 (JSON pointers as fragments)"""
    if pointer == ROOT:
        return document
    if not pointer.startswith("#/"):
        raise InvalidRequestError(f"'$ref' can lead to '#/…' only, not to '{pointer[:80]}'.")
    node = document
    for part in unquote(pointer[2:]).split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            raise InvalidRequestError(f"'$ref' leads nowhere: '{pointer[:80]}'.")
    if not isinstance(node, (dict, bool)):
        raise InvalidRequestError(f"'$ref' leads to no schema: '{pointer[:80]}'.")
    return node
