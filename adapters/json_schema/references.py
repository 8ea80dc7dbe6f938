"""Resolve the `$ref`s of a schema and find the ones that no finite value keeps to."""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
from collections import deque
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from adapters.errors import InvalidRequestError
from adapters.json_schema.keywords import LISTS, MAPS, SINGLES, Node

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
        self._finite: set[str] = set()
        self._find_finite(self._explore(start))
        if start not in self._finite:
            raise InvalidRequestError("The schema has no finite instance.")

    def node(self, pointer: str) -> Node:
        return self._nodes[pointer]

    def has_instance(self, pointer: str) -> bool:
        """False where every instance of the subschema would contain another one for ever."""
        return pointer in self._finite

    def _explore(self, start: str) -> list[str]:
        """Return all pointers, targets first but for cycles.

        Depth-first search without recursion: chains of references may be long.
        """
        stack: list[tuple[str, Iterator[str]]] = []
        left: list[str] = []

        def enter(pointer: str) -> None:
            self._nodes[pointer] = resolve(self._document, pointer)
            self._targets[pointer] = set(_references(self._nodes[pointer]))
            stack.append((pointer, iter(sorted(self._targets[pointer]))))

        enter(start)
        while stack:
            pointer, targets = stack[-1]
            target = next(targets, None)
            if target is None:
                left.append(pointer)
                stack.pop()
            elif target not in self._nodes:
                enter(target)
        return left

    def _find_finite(self, pointers: list[str]) -> None:
        """Find the subschemas with finite instances: once each, where there are no cycles."""
        sources: dict[str, list[str]] = {pointer: [] for pointer in pointers}
        for pointer, targets in self._targets.items():
            for target in targets:
                sources[target].append(pointer)
        waiting = deque(pointers)
        while waiting:
            pointer = waiting.popleft()
            if pointer not in self._finite and self._is_finite(self._nodes[pointer]):
                self._finite.add(pointer)
                waiting.extend(sources[pointer])

    def _is_finite(self, node: Node) -> bool:
        """True if one of the alternatives, and all required parts, are."""
        if not isinstance(node, dict):
            return node is not False
        schema: dict[str, Any] = node
        if "$ref" in schema and schema["$ref"] not in self._finite:
            return False
        parts = [*schema.get("allOf", ()), *_required_parts(schema)]
        alternatives = [schema[keyword] for keyword in ("anyOf", "oneOf") if schema.get(keyword)]
        return all(map(self._is_finite, parts)) and all(
            any(map(self._is_finite, options)) for options in alternatives
        )


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
