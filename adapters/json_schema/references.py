"""Resolve the `$ref`s of a schema, and remove those that no value can keep to."""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
from collections import deque
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from adapters.errors import InvalidRequestError
from adapters.json_schema.fault import Fault
from adapters.json_schema.keywords import LISTS, MAPS, SINGLES, Node

ROOT = "#"
_SCALARS = {"null", "boolean", "integer", "number", "string"}


def settle_references(document: Node) -> list[Fault]:
    """Leave in `document` only references with a target that has a finite value.

    The others are mistakes, and removed; but where the document allows something else, a reference
    that only infinite values keep to becomes `false`, which says as much.
    """
    return _Settling(document).run()


class _Settling:
    def __init__(self, document: Node) -> None:
        self._document = document
        self._nodes: dict[str, Node] = {ROOT: document}
        """Pointer -> node, of all that the document's root leads to."""
        self._sources: dict[str, set[str]] = {ROOT: set()}
        """Pointer -> the pointers of the nodes that refer to it."""
        self._finite: set[str] = set()
        self._faults: list[Fault] = []

    def run(self) -> list[Fault]:
        # A queue and no recursion: chains of references may be long.
        waiting = deque([ROOT])
        while waiting:
            waiting.extend(self._follow(waiting.popleft()))
        self._find_finite()
        for pointer, node in tuple(self._nodes.items()):
            self._nodes[pointer] = self._cut(node, _path(pointer))
        return self._faults

    def _follow(self, pointer: str) -> Iterator[str]:
        """Resolve the references of a node, and yield the targets that are new."""
        for node, path in list(_referring(self._nodes[pointer], _path(pointer))):
            ref = node["$ref"]
            try:
                target = resolve(self._document, ref)
            except InvalidRequestError as error:
                self._remove(node, path, error.message)
                continue
            self._sources.setdefault(ref, set()).add(pointer)
            if ref not in self._nodes:
                self._nodes[ref] = target
                yield ref

    def _remove(self, node: dict[str, Any], path: str, reason: str) -> None:
        del node["$ref"]
        self._faults.append(Fault(f"{path}.$ref", "$ref", reason, True))

    def _find_finite(self) -> None:
        """Find the nodes with finite values: once each, where there are no cycles."""
        waiting = deque(reversed(self._nodes))
        while waiting:
            pointer = waiting.popleft()
            if pointer not in self._finite and self._is_finite(self._nodes[pointer]):
                self._finite.add(pointer)
                waiting.extend(self._sources[pointer])

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

    def _cut(self, node: Node, path: str) -> Node:
        """Return `node` without references to infinite values."""
        if not isinstance(node, dict):
            return node
        if "$ref" in node and node["$ref"] not in self._finite:
            if ROOT in self._finite:
                return False
            self._remove(node, path, f"No finite value fits the $ref '{node['$ref'][:80]}'.")
        for place, key, at in list(_places(node, path)):
            place[key] = self._cut(place[key], at)
        return node


def _places(node: dict[str, Any], path: str) -> Iterator[tuple[Any, Any, str]]:
    """The subschemas of `node` but its definitions: container, key and path of each."""
    for keyword, value in node.items():
        at = f"{path}.{keyword}"
        if keyword in MAPS:
            yield from ((value, name, f"{at}.{name}") for name in value)
        elif keyword in (*LISTS, *SINGLES) and isinstance(value, list):
            yield from ((value, number, f"{at}[{number}]") for number in range(len(value)))
        elif keyword in SINGLES:
            yield node, keyword, at


def _referring(node: Node, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The schemas in `node` with a reference, each with its path."""
    if not isinstance(node, dict):
        return
    if "$ref" in node:
        yield node, path
    for place, key, at in _places(node, path):
        yield from _referring(place[key], at)


def _path(pointer: str) -> str:
    """Write a pointer as the paths of faults are written."""
    return "".join(f".{unquote(name)}" for name in pointer.split("/")[1:])


def _required_parts(schema: dict[str, Any]) -> Iterator[Node]:
    """The subschemas of properties and items that every instance has."""
    kinds = schema.get("type", ())
    if _SCALARS.intersection([kinds] if isinstance(kinds, str) else kinds):
        return
    properties = schema.get("properties", {})
    yield from (properties[name] for name in schema.get("required", ()) if name in properties)
    minimum = schema.get("minItems", 0)
    prefix = list(schema.get("prefixItems", ()))
    yield from prefix[:minimum]
    if minimum > len(prefix) and "items" in schema:
        yield schema["items"]


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
