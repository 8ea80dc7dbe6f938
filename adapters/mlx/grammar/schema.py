"""Add bounds to JSON schemas, so that every answer ends.

A sampler that may write a thousand digits will do so sooner or later. Where a schema has no bound
one is added. Instances of the result are always instances of the schema.

    string           4096 characters, keys of free objects 64
    array            64 items
    free object      64 keys; 4 levels of lists and objects in it
    number           ±1e15 with nine decimals; integers that a double represents exactly
    recursion        8 cycles
    object           only the keys it names, unless `additionalProperties` allows others
"""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
import json
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import InvalidRequestError
from adapters.mlx.grammar.references import ROOT, References
from adapters.schema_keywords import LISTS, MAPS, SINGLES, Node, is_number

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_LENGTH = 4096
MAX_ITEMS = 64
MAX_RECURSION = 8
_MAX_NODES = 20_000
_FREE_DEPTH = 4
_KEY = r"^(?s:.{0,64})$"
_INTEGER = 2**53 - 1
_NUMBER = 1e15
_DECIMALS = 1e-9
_SMALLEST_RANGE = 1e-6
"""Smaller ranges may contain no number with nine decimals."""

_OBJECT = ("properties", "required", "additionalProperties", "patternProperties")
_KINDS = {
    "object": (*_OBJECT, "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""The type that a keyword implies if `type` is absent."""

_Schema = dict[str, Any]


def bound(schema: _Schema, start: str = ROOT) -> _Schema:
    """`schema` with bounds and with its recursion unrolled to a fixed depth.

    `start`: the pointer of the subschema to bound; it may refer to all of `schema`.

    Raises:
        InvalidRequestError: it is too large or too deep, has no finite instance, or a `$ref` has
            no target.
    """
    require_size(schema)
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


def require_size(schema: _Schema) -> None:
    """
    Raises:
        InvalidRequestError: it is too large or too deep.
    """
    if _depth(schema) > MAX_DEPTH:
        raise InvalidRequestError(f"The schema is nested deeper than {MAX_DEPTH} levels.")
    if len(json.dumps(schema, ensure_ascii=False).encode()) > MAX_BYTES:
        raise InvalidRequestError(f"The schema is larger than {MAX_BYTES // 1024} KB.")


def _depth(schema: _Schema) -> int:
    """Nesting depth, by levels: recursion could exhaust the stack."""
    level: list[Any] = [schema]
    depth = 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        inner = [node.values() if isinstance(node, dict) else node for node in level]
        level = [v for values in inner for v in values if isinstance(v, (dict, list))]
    return depth


class _Scope(Struct, frozen=True):
    """The context of a subschema."""

    source: str
    """Pointer of the definition it is part of."""
    cycles: int
    """Number of reference cycles that may still be closed."""
    names: frozenset[str] | None = None
    """Set if several schemas apply to one object: the keys that any of them names."""


class _Bounding:
    def __init__(self, schema: _Schema, start: str) -> None:
        self._start = start
        self._references = References(schema, start)
        self._definitions: _Schema = {}
        self._named: dict[tuple[str, int], str] = {}
        self._pending: list[tuple[str, str, int]] = []
        self._nodes = 0

    def run(self) -> _Schema:
        scope = _Scope(self._start, MAX_RECURSION)
        root = self._bound(self._references.node(self._start), scope)
        while self._pending:
            name, pointer, cycles = self._pending.pop()
            node = self._references.node(pointer)
            self._definitions[name] = self._bound(node, _Scope(pointer, cycles))
        schema = root if isinstance(root, dict) else {"allOf": [root]}
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def _bound(self, node: Node, scope: _Scope) -> Node:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise InvalidRequestError("The schema's references unroll to too many schemas.")
        if node is True or node == {}:
            return self._any(_FREE_DEPTH) if scope.names is None else True
        if node is False or "const" in node or "enum" in node:
            return node
        schema = {k: v for k, v in node.items() if k not in ("$defs", "definitions")}
        if scope.names is not None or _is_merged(schema):
            return self._merged(schema, scope)
        if "$ref" in schema:
            return self._refer(schema, scope)
        if not any(keyword in schema for keyword in ("anyOf", "oneOf")):
            schema = self._narrow(_with_type(schema), scope)
        return self._inner(schema, scope, scope)

    def _inner(self, schema: _Schema, scope: _Scope, options: _Scope) -> _Schema:
        """Bound the subschemas of `schema`; `options` is the scope of its alternatives."""
        alone = replace(scope, names=None)
        bounded = dict(schema)
        for keyword, value in schema.items():
            if keyword in MAPS:
                kept = (scope.names if keyword == "properties" else None) or frozenset()
                bounded[keyword] = {
                    name: True if node is True and name in kept else self._bound(node, alone)
                    for name, node in value.items()
                }
            elif keyword in ("anyOf", "oneOf"):
                bounded[keyword] = [self._option(node, keyword, options) for node in value]
            elif keyword in (*LISTS, *SINGLES):
                inner = scope if keyword == "allOf" else alone
                bounded[keyword] = (
                    [self._bound(node, inner) for node in value]
                    if isinstance(value, list)
                    else self._bound(value, inner)
                )
        return bounded

    def _option(self, node: Node, keyword: str, scope: _Scope) -> Node:
        """Bound an alternative; references in `oneOf` are inlined.

        llguidance does not follow references to prove that alternatives of `oneOf` exclude each
        other.
        """
        if keyword == "oneOf" and isinstance(node, dict) and set(node) == {"$ref"}:
            return self._inline(node["$ref"], scope)
        return self._bound(node, scope)

    # References.

    def _refer(self, schema: _Schema, scope: _Scope) -> Node:
        cycles = self._cycles_left(schema["$ref"], scope)
        if cycles is None:
            return False
        key = (schema["$ref"], cycles)
        if key not in self._named:
            self._named[key] = f"d{len(self._named)}"
            self._pending.append((self._named[key], *key))
        return {**schema, "$ref": f"#/$defs/{self._named[key]}"}

    def _cycles_left(self, target: str, scope: _Scope) -> int | None:
        """`None` if too few are left for any instance of `target`."""
        cycles = scope.cycles - self._references.cost(scope.source, target)
        return cycles if cycles >= self._references.height(target) else None

    def _inline(self, target: str, scope: _Scope) -> Node:
        cycles = self._cycles_left(target, scope)
        if cycles is None:
            return False
        return self._bound(self._references.node(target), _Scope(target, cycles, scope.names))

    # Several schemas for one instance.

    def _merged(self, schema: _Schema, scope: _Scope) -> Node:
        """Bound an object with several schemas: keys that any of them names stay allowed."""
        options = [node for keyword in ("anyOf", "oneOf") for node in schema.get(keyword, ())]
        rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
        shared = self._names(rest, set()) | (scope.names or frozenset())
        union = shared.union(*(self._names(option, set()) for option in options))
        together = replace(scope, names=frozenset(union))
        target = rest.pop("$ref", None)
        narrowed = self._narrow(rest, together)
        if options:
            narrowed.update({k: schema[k] for k in ("anyOf", "oneOf") if k in schema})
        bounded = self._inner(narrowed, together, replace(scope, names=frozenset(shared)))
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
            inner.append(self._references.node(target))
        return frozenset(names.union(*(self._names(part, visited) for part in inner)))

    # Bounds.

    def _narrow(self, schema: _Schema, scope: _Scope) -> _Schema:
        kinds = schema.get("type", ())
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            match kind:
                case "string":
                    schema = _narrow_string(schema)
                case "integer" | "number":
                    is_integer = kind == "integer" or "integer" in kinds
                    schema = _narrow_number(schema, is_integer=is_integer)
                case "array":
                    schema = _narrow_array(schema, scope)
                case "object":
                    schema = _narrow_object(schema, scope)
                case _:
                    pass
        if scope.names is not None and "type" not in schema and _implies(schema, "object"):
            schema = _narrow_object(schema, scope)
        return schema

    def _any(self, depth: int) -> _Schema:
        """The schema of any value with at most `depth` levels of lists and objects."""
        name = f"any{depth}"
        if name not in self._definitions:
            scalars: list[_Schema] = [
                {"type": ["null", "boolean"]},
                _narrow_string({"type": "string"}),
                _narrow_number({"type": "number"}, is_integer=False),
            ]
            self._definitions[name] = {"anyOf": scalars}
            if depth:
                inner = self._any(depth - 1)
                array = {"type": "array", "items": inner, "maxItems": MAX_ITEMS}
                keys = {"patternProperties": {_KEY: inner}, "additionalProperties": False}
                free = {"type": "object", **keys, "maxProperties": MAX_ITEMS}
                scalars += [array, free]
        return {"$ref": f"#/$defs/{name}"}


def _is_merged(schema: _Schema) -> bool:
    """True if more than one schema applies to the same instance."""
    own = "type" in schema or any(_implies(schema, kind) for kind in _KINDS)
    others = [keyword for keyword in ("$ref", "anyOf", "oneOf") if keyword in schema]
    return "allOf" in schema or len(others) > 1 or (own and bool(others))


def _implies(schema: _Schema, kind: str) -> bool:
    return any(keyword in schema for keyword in _KINDS[kind])


def _with_type(schema: _Schema) -> _Schema:
    """Add a missing `type`: the types that the keywords imply, or all types."""
    if "type" in schema:
        return schema
    kinds = [kind for kind in _KINDS if _implies(schema, kind)]
    return {**schema, "type": kinds or ["null", "boolean", "number", "string", "array", "object"]}


def _narrow_array(schema: _Schema, scope: _Scope) -> _Schema:
    prefix, minimum = schema.get("prefixItems", ()), schema.get("minItems", 0)
    maximum = max(MAX_ITEMS, minimum, len(prefix))
    narrowed = {**schema, "maxItems": schema.get("maxItems", maximum)}
    if scope.names is None and "items" not in schema:
        narrowed["items"] = minimum > len(prefix) or not prefix
    return narrowed


def _narrow_object(schema: _Schema, scope: _Scope) -> _Schema:
    rest = schema.get("additionalProperties", True)
    if "properties" in schema or "required" in schema:
        return schema if "additionalProperties" in schema else _close(schema, scope.names)
    if scope.names is not None or "patternProperties" in schema or rest is False:
        return schema
    maximum = schema.get("maxProperties", max(MAX_ITEMS, schema.get("minProperties", 0)))
    keys = {"patternProperties": {_KEY: rest}, "additionalProperties": False}
    return {**schema, **keys, "maxProperties": maximum}


def _close(schema: _Schema, names: frozenset[str] | None) -> _Schema:
    """Allow only the keys that the schema names, and `names`."""
    properties = dict(schema.get("properties", {}))
    for name in (*schema.get("required", ()), *sorted(names or ())):
        properties.setdefault(name, True)
    return {**schema, "properties": properties, "additionalProperties": False}


def _narrow_string(schema: _Schema) -> _Schema:
    return {"maxLength": MAX_LENGTH + schema.get("minLength", 0), **schema}


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
