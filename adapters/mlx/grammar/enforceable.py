"""Remove from a JSON schema what a grammar cannot enforce, and report what was removed.

`read_schema` removes what no engine enforces. The rest is compiled, and the keywords that the
compiler refuses are removed: look-ahead in a pattern, alternatives of `oneOf` that overlap.
"""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from adapters.errors import BackendError
from adapters.json_schema.fault import Fault
from adapters.json_schema.keywords import DEFINITIONS, LISTS, MAPS, SINGLES, Node
from adapters.json_schema.reading import read_schema
from adapters.json_schema.references import ROOT, resolve
from adapters.mlx.grammar.schema import bound

MAX_TRIALS = 400
"""Compilations to find what is refused: one for each subschema beside a refused one."""

ANY_OBJECT: dict[str, Any] = {"type": "object"}
"""In place of a schema that cannot be enforced at all."""
_FIRST = (*DEFINITIONS, "type", "properties", "patternProperties", "prefixItems")
"""Other keywords refer to these: `_Search` adds them first."""


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
        kept, faults = read_schema(schema)
        search = _Search(kept, compile_error, time.monotonic() + seconds)
        return Enforceable(kept, (*faults, *search.run()))
    except BackendError as error:
        return Enforceable(ANY_OBJECT, (Fault("", "", error.message),))


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
            if keyword not in DEFINITIONS and (reason := self._error(pointer)):
                del node[keyword]
                # JSON Schema: an unknown `format` is an annotation
                # (https://json-schema.org/draft/2020-12/json-schema-validation#section-7).
                is_annotation = keyword == "format" and "nknown format" in reason
                at = f"{path}.{keyword}"
                self._faults.append(Fault(at, keyword, reason, is_annotation=is_annotation))

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
