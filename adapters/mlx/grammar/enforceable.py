"""Remove from a JSON schema what a grammar cannot enforce, and report what was removed.

No list says what is unsupported. `trim` keeps the keywords that the grammar writer understands,
with values that make sense, so that an invented keyword is removed like a forgotten one. `search`
then compiles the rest, and removes the keywords that the compiler refuses: look-ahead in a pattern,
alternatives of `oneOf` that overlap, limits that contradict each other.
"""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from adapters.errors import BackendError
from adapters.mlx.grammar.references import LISTS, MAPS, ROOT, SINGLES, Node, resolve
from adapters.mlx.grammar.schema import bound, is_number, require_size
from adapters.property_names import allows_every_name

MAX_TRIALS = 400
"""Compilations to find what is refused: one for each subschema beside a refused one."""

ANY_OBJECT: dict[str, Any] = {"type": "object"}
"""In place of a schema that cannot be enforced at all."""
_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_DEFINITIONS = ("$defs", "definitions")
_FIRST = (*_DEFINITIONS, "type", "properties", "patternProperties", "prefixItems")
"""Other keywords refer to these: `search` adds them first."""


class Fault(NamedTuple):
    """A part of a schema that is not enforced."""

    path: str
    """Place in the schema, such as `.properties.a.not`; "" for the schema as a whole."""
    keyword: str
    """Its name; "" for a subschema or the schema as a whole."""
    reason: str
    is_mistake: bool = False
    """The schema is wrong by itself; otherwise another engine may enforce it."""

    @property
    def is_annotation(self) -> bool:
        """True if an answer cannot violate it.

        JSON Schema: an unknown `format` is an annotation
        (https://json-schema.org/draft/2020-12/json-schema-validation#section-7).
        """
        return self.keyword == "format" and "nknown format" in self.reason


class Enforceable(NamedTuple):
    """A schema that a grammar enforces in full, and what was removed from it."""

    schema: dict[str, Any]
    faults: tuple[Fault, ...] = ()


def enforceable(
    schema: dict[str, Any], compile_error: Callable[[dict[str, Any]], str], seconds: float
) -> Enforceable:
    """Remove the parts of `schema` that cannot be enforced.

    `compile_error` returns the reason why a bounded schema has no grammar, or "". After `seconds`,
    or if the fault cannot be located, all of the schema is removed: any object is allowed.
    """
    try:
        require_size(schema)
        trimmed, faults = _Trimming().run(schema)
        search = _Search(trimmed, compile_error, time.monotonic() + seconds)
        return Enforceable(trimmed, (*faults, *search.run()))
    except BackendError as error:
        return Enforceable(ANY_OBJECT, (Fault("", "", error.message),))


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)


def _is_schema(value: Any) -> bool:
    return isinstance(value, (dict, bool))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_UNDERSTOOD: dict[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "enum": _is_list,
    "const": lambda _: True,
    "$ref": _is_text,
    "items": lambda value: _is_schema(value) or _is_list(value),
    "additionalItems": _is_schema,
    "additionalProperties": _is_schema,
    "required": _are_names,
    "multipleOf": lambda value: is_number(value) and value > 0,
    **dict.fromkeys((*MAPS, *_DEFINITIONS), _is_map),
    **dict.fromkeys(LISTS, _is_list),
    **dict.fromkeys(("pattern", "format"), _is_text),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(("minProperties", "maxProperties"), _is_count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), is_number),
}
"""The keywords of the grammar writer, and the values that it understands."""

_ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$anchor", "$comment"),
        *("title", "description", "default", "examples"),
        *("deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
        *("discriminator", "example", "externalDocs", "xml"),
    }
)
"""Keywords that no answer can violate: JSON Schema's annotations and OpenAPI's base vocabulary.

Sources: https://json-schema.org/draft/2020-12/json-schema-validation (sections 8 and 9),
https://spec.openapis.org/oas/v3.1.0#schema-object
"""


class _Trimming:
    """Removal of the keywords and values that the grammar writer does not understand."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def run(self, schema: dict[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        return self._schema(schema, ""), self._faults

    def _node(self, node: Node, path: str) -> Node:
        if isinstance(node, dict):
            return self._schema(node, path)
        if isinstance(node, bool):
            return node
        self._faults.append(Fault(path, "", "A schema must be an object or a boolean.", True))
        return True

    def _schema(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for keyword, value in schema.items():
            at = f"{path}.{keyword}"
            if keyword in _ANNOTATIONS:
                continue
            if keyword == "propertyNames" and allows_every_name(value):
                continue
            if keyword not in _UNDERSTOOD:
                reason = f"The schema uses '{keyword[:80]}', which cannot be enforced."
                self._faults.append(Fault(at, keyword, reason))
            elif not _UNDERSTOOD[keyword](value):
                shown = json.dumps(value)[:80]
                reason = f"'{keyword}' cannot be {shown} in a JSON schema."
                self._faults.append(Fault(at, keyword, reason, True))
            else:
                kept[keyword] = self._value(keyword, value, at)
        return kept

    def _value(self, keyword: str, value: Any, at: str) -> Any:
        if keyword in (*MAPS, *_DEFINITIONS):
            return {name: self._node(node, f"{at}.{name}") for name, node in value.items()}
        if keyword in (*LISTS, *SINGLES):
            if isinstance(value, list):
                return [self._node(node, f"{at}[{n}]") for n, node in enumerate(value)]
            return self._node(value, at)
        return value


class _Search:
    """Removal, in place, of the keywords that the compiler refuses.

    A subschema that compiles is not entered. In one that does not, the subschemas come first, and
    then its own keywords one by one.
    """

    def __init__(
        self, document: dict[str, Any], compile_error: Callable[[dict[str, Any]], str], end: float
    ) -> None:
        self._document = document
        self._compile_error = compile_error
        self._end = end
        self._trials = 0
        self._visited: set[str] = set()
        self._faults: list[Fault] = []

    def run(self) -> list[Fault]:
        """
        Raises:
            BackendError: the faults could not be located in time.
        """
        self._visit(self._document, ROOT, "")
        return self._faults

    def _visit(self, node: Node, pointer: str, path: str) -> None:
        if pointer in self._visited or not isinstance(node, dict):
            return
        self._visited.add(pointer)
        if not self._error(pointer):
            return
        for child, inner, at in self._children(node, pointer, path):
            self._visit(child, inner, at)
        if self._error(pointer):
            self._sift(node, pointer, path)

    def _sift(self, node: dict[str, Any], pointer: str, path: str) -> None:
        """Put the keywords of `node` back one by one; leave out those that make it fail."""
        keywords = dict(node)
        node.clear()
        first = [keyword for keyword in _FIRST if keyword in keywords]
        for keyword in (*first, *(k for k in keywords if k not in first)):
            node[keyword] = keywords[keyword]
            if keyword not in _DEFINITIONS and (reason := self._error(pointer)):
                del node[keyword]
                is_mistake = keyword == "$ref"  # It has no target, or no end.
                self._faults.append(Fault(f"{path}.{keyword}", keyword, reason, is_mistake))

    def _error(self, pointer: str) -> str:
        """Return the reason why the subschema at `pointer` cannot be enforced, or ""."""
        self._trials += 1
        if self._trials > MAX_TRIALS or time.monotonic() > self._end:
            raise BackendError("The schema takes too long to compile.")
        try:
            return self._compile_error(bound(self._document, pointer))
        except BackendError as error:
            return error.message

    def _children(
        self, node: dict[str, Any], pointer: str, path: str
    ) -> Iterator[tuple[Node, str, str]]:
        """Yield the subschemas of `node` and the target of its reference, each with its place."""
        for keyword, value in node.items():
            inner, at = f"{pointer}/{keyword}", f"{path}.{keyword}"
            if keyword in MAPS:
                for name, child in value.items():
                    yield child, f"{inner}/{_escape(name)}", f"{at}.{name}"
            elif keyword in (*LISTS, *SINGLES):
                if isinstance(value, list):
                    for number, child in enumerate(value):
                        yield child, f"{inner}/{number}", f"{at}[{number}]"
                else:
                    yield value, inner, at
            elif keyword == "$ref":
                yield from self._target(value)

    def _target(self, pointer: str) -> Iterator[tuple[Node, str, str]]:
        try:
            node = resolve(self._document, pointer)
        except BackendError:
            return
        names = pointer.removeprefix("#").split("/")[1:]
        yield node, pointer, "".join(f".{unquote(name)}" for name in names)


def _escape(name: str) -> str:
    """Write a key for a JSON pointer in a URI fragment."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~")
