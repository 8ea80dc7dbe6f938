"""Write a JSON schema as llguidance has to enforce it.

    object           only the keys that it names, unless `additionalProperties` allows others
    number           ±1e15 with nine decimals; integers that a double represents exactly: a sampler
                     that may write a thousand digits will do so sooner or later

Instances of the result are always instances of the schema. Strings and lists have no bounds but
their own: an answer that goes on is ended by its limit of tokens, and says so.
"""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
from typing import Any

from adapters.errors import InvalidRequestError
from adapters.json_schema.keywords import (
    DEFINITIONS,
    KEYWORDS_OF,
    LISTS,
    MAPS,
    SINGLES,
    Node,
    is_number,
)
from adapters.json_schema.references import ROOT, resolve

_MAX_NODES = 20_000
_INTEGER = 2**53 - 1
_NUMBER = 1e15
_DECIMALS = 1e-9
_SMALLEST_RANGE = 1e-6
"""Smaller ranges may contain no number with nine decimals."""

_Schema = dict[str, Any]


def bound(schema: _Schema, start: str = ROOT) -> _Schema:
    """`schema` with bounds for its numbers, and with its recursion as references of the grammar.

    `start`: the pointer of the subschema to bound; it may refer to all of `schema`.

    Raises:
        InvalidRequestError: it has too many schemas, or a `$ref` has no target.
    """
    if "x-guidance" in schema:
        # llguidance's own options: one of them switches enforcement off.
        raise InvalidRequestError("The schema uses 'x-guidance', which is not supported.")
    try:
        return _Bounding(schema, start).run()
    except RecursionError as error:
        raise InvalidRequestError("The schema's references are nested too deeply.") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise InvalidRequestError("This is not a valid JSON schema.") from error


def any_object() -> _Schema:
    """The schema of JSON mode."""
    return bound({"type": "object"})


_Names = frozenset[str] | None
"""Set if several schemas apply to one object: the keys that any of them names."""


class _Bounding:
    def __init__(self, schema: _Schema, start: str) -> None:
        self._start = start
        self._document = schema
        self._definitions: _Schema = {}
        self._named: dict[str, str] = {}
        """Pointer -> name of its definition."""
        self._open: dict[tuple[int, _Names], str] = {}
        """Schemas that are being written -> names, of those that contain themselves."""
        self._inlined: frozenset[str] = frozenset()
        """References followed since the last property or item."""
        self._nodes = 0

    def run(self) -> _Schema:
        root = self._bound(resolve(self._document, self._start))
        done: set[str] = set()
        while waiting := self._named.keys() - done:
            for pointer in sorted(waiting):
                node = resolve(self._document, pointer)
                self._definitions[self._named[pointer]] = self._bound(node)
            done |= waiting
        schema = root if isinstance(root, dict) else {"allOf": [root]}
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def _bound(self, node: Node, names: _Names = None) -> Node:
        """Write `node`; inside itself, as inlined references lead to, it is a reference."""
        key = (id(node), names)
        if key in self._open:
            self._open[key] = name = self._open[key] or f"r{self._nodes}"
            return {"$ref": f"#/$defs/{name}"}
        if isinstance(node, dict):
            self._open[key] = ""
        inlined, self._inlined = self._inlined, frozenset()
        written = self._written(node, names)
        self._inlined = inlined
        if name := self._open.pop(key, ""):
            self._definitions[name] = written
        return written

    def _written(self, node: Node, names: _Names) -> Node:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise InvalidRequestError("The schema's references unroll to too many schemas.")
        if node is True or node == {}:
            return self._any() if names is None else True
        if node is False or "const" in node or "enum" in node:
            return node
        schema = {k: v for k, v in node.items() if k not in DEFINITIONS}
        if names is not None or _is_merged(schema):
            return self._merged(schema, names)
        if "$ref" in schema:
            return self._refer(schema)
        if not any(keyword in schema for keyword in ("anyOf", "oneOf")):
            schema = self._narrow(_with_type(schema), names)
        return self._inner(schema, names, names)

    def _inner(self, schema: _Schema, names: _Names, options: _Names) -> _Schema:
        """Write the subschemas of `schema`; `options` are the names in its alternatives."""
        bounded = dict(schema)
        for keyword, value in schema.items():
            if keyword in MAPS:
                kept = (names if keyword == "properties" else None) or frozenset()
                bounded[keyword] = {
                    name: True if node is True and name in kept else self._bound(node)
                    for name, node in value.items()
                }
            elif keyword in ("anyOf", "oneOf"):
                bounded[keyword] = [self._option(node, keyword, options) for node in value]
            elif keyword in (*LISTS, *SINGLES):
                inner = names if keyword == "allOf" else None
                bounded[keyword] = (
                    [self._bound(node, inner) for node in value]
                    if isinstance(value, list)
                    else self._bound(value, inner)
                )
        return bounded

    def _option(self, node: Node, keyword: str, names: _Names) -> Node:
        """Write an alternative; references in `oneOf` are inlined.

        llguidance does not follow references to prove that alternatives of `oneOf` exclude each
        other.
        """
        if keyword == "oneOf" and isinstance(node, dict) and set(node) == {"$ref"}:
            return self._inline(node["$ref"], names)
        return self._bound(node, names)

    # References.

    def _refer(self, schema: _Schema) -> Node:
        target = schema["$ref"]
        name = self._named.setdefault(target, f"d{len(self._named)}")
        return {**schema, "$ref": f"#/$defs/{name}"}

    def _inline(self, target: str, names: _Names) -> Node:
        if target in self._inlined:
            return False
        outer, self._inlined = self._inlined, self._inlined | {target}
        written = self._written(resolve(self._document, target), names)
        self._inlined = outer
        return written

    # Several schemas for one instance.

    def _merged(self, schema: _Schema, names: _Names) -> Node:
        """Write an object with several schemas: keys that any of them names stay allowed."""
        options = [node for keyword in ("anyOf", "oneOf") for node in schema.get(keyword, ())]
        rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
        shared = self._names(rest, set()) | (names or frozenset())
        together = shared.union(*(self._names(option, set()) for option in options))
        target = rest.pop("$ref", None)
        narrowed = self._narrow(rest, together)
        if options:
            narrowed.update({k: schema[k] for k in ("anyOf", "oneOf") if k in schema})
        bounded = self._inner(narrowed, together, shared)
        if target is not None:
            bounded["allOf"] = [*bounded.get("allOf", ()), self._inline(target, together)]
        return bounded

    def _names(self, node: Node, visited: set[str]) -> frozenset[str]:
        """All keys of an object that `node` names."""
        if not isinstance(node, dict):
            return frozenset()
        schema: _Schema = node
        names = {*schema.get("properties", ()), *schema.get("required", ())}
        inner = [part for k in ("allOf", "anyOf", "oneOf") for part in schema.get(k, ())]
        if (target := schema.get("$ref")) is not None and target not in visited:
            visited.add(target)
            inner.append(resolve(self._document, target))
        return frozenset(names.union(*(self._names(part, visited) for part in inner)))

    # Bounds.

    def _narrow(self, schema: _Schema, names: _Names) -> _Schema:
        kinds = schema.get("type", ())
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            match kind:
                case "integer" | "number":
                    is_integer = kind == "integer" or "integer" in kinds
                    schema = _narrow_number(schema, is_integer=is_integer)
                case "array":
                    schema = _narrow_array(schema, names)
                case "object":
                    schema = _narrow_object(schema, names)
                case _:
                    pass
        if names is not None and "type" not in schema and _implies(schema, "object"):
            schema = _narrow_object(schema, names)
        return schema

    def _any(self) -> _Schema:
        """Return the schema of any value, with numbers as anywhere else."""
        any_value: _Schema = {"$ref": "#/$defs/any"}
        if "any" not in self._definitions:
            number = _narrow_number({"type": "number"}, is_integer=False)
            others: _Schema = {"items": any_value, "additionalProperties": any_value}
            types = ["null", "boolean", "string", "array", "object"]
            self._definitions["any"] = {"anyOf": [number, {"type": types, **others}]}
        return any_value


def _is_merged(schema: _Schema) -> bool:
    """True if more than one schema applies to the same instance."""
    own = "type" in schema or any(_implies(schema, kind) for kind in KEYWORDS_OF)
    others = [keyword for keyword in ("$ref", "anyOf", "oneOf") if keyword in schema]
    return "allOf" in schema or len(others) > 1 or (own and bool(others))


def _implies(schema: _Schema, kind: str) -> bool:
    return any(keyword in schema for keyword in KEYWORDS_OF[kind])


def _with_type(schema: _Schema) -> _Schema:
    """Add a missing `type`: the types that the keywords imply, or all types."""
    if "type" in schema:
        return schema
    kinds = [kind for kind in KEYWORDS_OF if _implies(schema, kind)]
    return {**schema, "type": kinds or ["null", "boolean", "number", "string", "array", "object"]}


def _narrow_array(schema: _Schema, names: _Names) -> _Schema:
    prefix, minimum = schema.get("prefixItems", ()), schema.get("minItems", 0)
    if names is not None or "items" in schema:
        return schema
    return {**schema, "items": minimum > len(prefix) or not prefix}


def _narrow_object(schema: _Schema, names: _Names) -> _Schema:
    if "additionalProperties" in schema:
        return schema
    if "properties" in schema or "required" in schema:
        return _close(schema, names)
    if names is not None or "patternProperties" in schema:
        return schema
    return {**schema, "additionalProperties": True}


def _close(schema: _Schema, names: frozenset[str] | None) -> _Schema:
    """Allow only the keys that the schema names, and `names`."""
    properties = dict(schema.get("properties", {}))
    for name in (*schema.get("required", ()), *sorted(names or ())):
        properties.setdefault(name, True)
    return {**schema, "properties": properties, "additionalProperties": False}


def _narrow_number(schema: _Schema, *, is_integer: bool) -> _Schema:
    size = _INTEGER if is_integer else _NUMBER
    low = [schema[k] for k in ("minimum", "exclusiveMinimum") if is_number(schema.get(k))]
    high = [schema[k] for k in ("maximum", "exclusiveMaximum") if is_number(schema.get(k))]
    narrowed = dict(schema)
    # Limits beyond the bounds, such as those of int64, have too many digits for llguidance.
    if not low or (max(low) < -size and min([size, *high]) >= -size):
        narrowed.pop("exclusiveMinimum", None)
        narrowed["minimum"] = min([-size, *(-2 * abs(bound) for bound in high if bound < 0)])
    if not high or (min(high) > size and max([-size, *low]) <= size):
        narrowed.pop("exclusiveMaximum", None)
        narrowed["maximum"] = max([size, *(2 * abs(bound) for bound in low if bound > 0)])
    if not is_integer:
        if low and high and 0 <= min(high) - max(low) < _SMALLEST_RANGE:
            # llguidance 1.9 accepts 0 as greater than 0 in such ranges.
            raise InvalidRequestError(
                f"Ranges of numbers smaller than {_SMALLEST_RANGE:g} cannot be enforced."
            )
        narrowed.setdefault("multipleOf", _DECIMALS)
    return narrowed
