"""Resolve the `$ref`s of a schema and find how often a recursive one has to be followed."""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf
from typing import Any
from urllib.parse import unquote

from adapters.errors import InvalidRequestError
from adapters.schema_keywords import LISTS, MAPS, SINGLES, Node

ROOT = "#"
_SCALARS = {"null", "boolean", "integer", "number", "string"}


def subschemas(node: Node) -> Iterator[Node]:
    """The direct subschemas of `node`; definitions are reached through `$ref` only."""
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

    def __init__(self, document: Node, start: str = ROOT) -> None:
        """Resolve all references that are reachable from the subschema at the pointer `start`.

        Raises:
            InvalidRequestError: a reference has no target in the document, or every instance
                would be infinite.
        """
        self._document = document
        self._nodes: dict[str, Node] = {}
        self._targets: dict[str, set[str]] = {}
        self._closing: set[tuple[str, str]] = set()
        self._ranks: dict[str, int] = {}
        """Pointers in the order in which the search left them: targets first, cycles aside."""
        self._explore(start)
        self._heights: dict[str, float] = dict.fromkeys(self._nodes, inf)
        self._measure()
        if self._heights[start] == inf:
            raise InvalidRequestError("The schema has no finite instance.")

    def node(self, pointer: str) -> Node:
        return self._nodes[pointer]

    def cost(self, source: str, target: str) -> int:
        """1 if the reference closes a cycle, else 0."""
        return int((source, target) in self._closing)

    def height(self, pointer: str) -> float:
        """Number of cycles in the smallest instance of `pointer`."""
        return self._heights[pointer]

    def _explore(self, start: str) -> None:
        """Depth-first search without recursion: chains of references may be long."""
        open_pointers: set[str] = set()
        stack: list[tuple[str, Iterator[str]]] = []

        def enter(pointer: str) -> None:
            self._nodes[pointer] = resolve(self._document, pointer)
            self._targets[pointer] = set(_references(self._nodes[pointer]))
            open_pointers.add(pointer)
            stack.append((pointer, iter(sorted(self._targets[pointer]))))

        enter(start)
        while stack:
            pointer, targets = stack[-1]
            target = next(targets, None)
            if target is None:
                open_pointers.discard(pointer)
                self._ranks[pointer] = len(self._ranks)
                stack.pop()
            elif target in open_pointers:
                self._closing.add((pointer, target))
            elif target not in self._nodes:
                enter(target)

    def _measure(self) -> None:
        """Find all heights, each pointer after its targets: once, where there are no cycles.

        Only what refers to a height that became smaller is measured again.
        """
        sources: dict[str, list[str]] = {pointer: [] for pointer in self._nodes}
        for pointer, targets in self._targets.items():
            for target in targets:
                sources[target].append(pointer)
        waiting = sorted((rank, pointer) for pointer, rank in self._ranks.items())
        queued = set(self._nodes)
        while waiting:
            _, pointer = heappop(waiting)
            queued.discard(pointer)
            height = self._height_of(self._nodes[pointer], pointer)
            if height < self._heights[pointer]:
                self._heights[pointer] = height
                for source in sources[pointer]:
                    if source not in queued:
                        queued.add(source)
                        heappush(waiting, (self._ranks[source], source))

    def _height_of(self, node: Node, source: str) -> float:
        """The minimum over alternatives, the maximum over required parts."""
        if not isinstance(node, dict):
            return inf if node is False else 0
        schema: dict[str, Any] = node
        parts: list[float] = [0]
        if "$ref" in schema:
            target = schema["$ref"]
            parts.append(self._heights[target] + self.cost(source, target))
        parts += [self._height_of(part, source) for part in schema.get("allOf", ())]
        for keyword in ("anyOf", "oneOf"):
            if options := schema.get(keyword):
                parts.append(min(self._height_of(option, source) for option in options))
        parts += [self._height_of(part, source) for part in _required_parts(schema)]
        return max(parts)


def _required_parts(schema: dict[str, Any]) -> Iterator[Node]:
    """The subschemas of properties and items that every instance has."""
    kinds = schema.get("type")
    if isinstance(kinds, list) and _SCALARS & set(map(str, kinds)):
        return
    properties = schema.get("properties", {})
    yield from (properties[name] for name in schema.get("required", ()) if name in properties)
    minimum = schema.get("minItems", 0)
    prefix = list(schema.get("prefixItems", ()))
    yield from prefix[:minimum]
    if minimum > len(prefix) and "items" in schema:
        yield schema["items"]


def _references(node: Node) -> Iterator[str]:
    if isinstance(node, dict) and "$ref" in node:
        yield str(node["$ref"])
    for child in subschemas(node):
        yield from _references(child)


def resolve(document: Node, pointer: str) -> Node:
    """Find the node of a JSON pointer.

    Source: https://www.rfc-editor.org/rfc/rfc6901 (JSON pointers as fragments)
    """
    if pointer == ROOT:
        return document
    if not pointer.startswith("#/"):
        raise InvalidRequestError(
            "A $ref must point into the schema itself, as '#/$defs/NAME' does."
        )
    node = document
    for part in unquote(pointer[2:]).split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            raise InvalidRequestError(f"The $ref '{pointer[:80]}' has no target in the schema.")
    if not isinstance(node, (dict, bool)):
        raise InvalidRequestError(f"The target of '$ref' is not a schema: '{pointer[:80]}'.")
    return node
