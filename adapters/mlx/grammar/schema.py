"""Schemas made to end: the same instances, less those that are longer than anybody wants.

A sampler that may write a thousand digits sooner or later does. Wherever a schema sets no bound
one is set here, and only ever narrower: what the result allows, the schema allows.

    string           4096 characters, keys of free objects 64
    array            64 items
    free object      64 keys; 4 levels of lists and objects in it
    number           ±1e15 with nine decimals; integers that a double holds exactly
    recursion        8 times round
    object           no keys but those it names, unless `additionalProperties` allows them
"""

# pyright: basic
# JSON is free until it has been checked: strict typing would have nothing to hold on to.
import json
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import InvalidRequestError
from adapters.mlx.grammar.references import LISTS, MAPS, ROOT, SINGLES, Node, References

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
"""Nine decimals must be able to meet it."""

_OBJECT = ("properties", "required", "additionalProperties", "patternProperties")
_KINDS = {
    "object": (*_OBJECT, "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "additionalItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""Where `type` is absent, the type that a keyword is about."""

_Schema = dict[str, Any]


def bound(schema: _Schema) -> _Schema:
    """`schema` with bounds, self-contained, its references unrolled.

    Raises:
        InvalidRequestError: it is too large or too deep, never ends, or a `$ref` leads nowhere.
    """
    _require_size(schema)
    try:
        return _Bounding(schema).run()
    except (TypeError, AttributeError, ValueError) as error:
        raise InvalidRequestError("The schema is no JSON schema.") from error


def any_object() -> _Schema:
    """What JSON mode allows."""
    return bound({"type": "object"})


def _require_size(schema: _Schema) -> None:
    if "x-guidance" in schema:
        # The engine's own switches: one of them turns the enforcing off.
        raise InvalidRequestError("The schema uses 'x-guidance', which is not supported.")
    if _depth(schema) > MAX_DEPTH:
        raise InvalidRequestError(f"The schema is nested deeper than {MAX_DEPTH} levels.")
    if len(json.dumps(schema, ensure_ascii=False).encode()) > MAX_BYTES:
        raise InvalidRequestError(f"The schema is larger than {MAX_BYTES // 1024} KB.")


def _depth(schema: _Schema) -> int:
    """Level by level: what is too deep for the stack must not be met by recursion."""
    level: list[Any] = [schema]
    depth = 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [v for values in inner for v in values if isinstance(v, (dict, list))]
    return depth


class _Scope(Struct, frozen=True):
    """Where a schema stands."""

    source: str
    """The definition it is written in."""
    rounds: int
    """How often a circle of references may still be closed."""
    names: frozenset[str] | None = None
    """Set where several schemas hold for one object: the keys that any of them knows."""


class _Bounding:
    def __init__(self, schema: _Schema) -> None:
        self._root = schema
        self._references = References(schema)
        self._definitions: _Schema = {}
        self._named: dict[tuple[str, int], str] = {}
        self._pending: list[tuple[str, str, int]] = []
        self._nodes = 0

    def run(self) -> _Schema:
        scope = _Scope(ROOT, MAX_RECURSION)
        root = self._bound(self._root, scope)
        while self._pending:
            name, pointer, rounds = self._pending.pop()
            node = self._references.node(pointer)
            self._definitions[name] = self._bound(node, _Scope(pointer, rounds))
        whole = root if isinstance(root, dict) else {"allOf": [root]}
        return {**whole, "$defs": self._definitions} if self._definitions else whole

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
        """Bound what stands in `schema`; `options` is the scope of its alternatives."""
        alone = replace(scope, names=None)
        bounded = dict(schema)
        for keyword, value in schema.items():
            if keyword in MAPS:
                kept = scope.names if keyword == "properties" else None
                bounded[keyword] = {
                    name: each
                    if each is True and kept and name in kept
                    else self._bound(each, alone)
                    for name, each in value.items()
                }
            elif keyword in ("anyOf", "oneOf"):
                bounded[keyword] = [self._option(each, keyword, options) for each in value]
            elif keyword in (*LISTS, *SINGLES):
                inner = scope if keyword == "allOf" else alone
                bounded[keyword] = self._each(value, inner)
        return bounded

    def _each(self, value: Any, scope: _Scope) -> Any:
        if isinstance(value, list):
            return [self._bound(each, scope) for each in value]
        return self._bound(value, scope)

    def _option(self, node: Node, keyword: str, scope: _Scope) -> Node:
        """llguidance does not follow references to see that alternatives of oneOf differ."""
        if keyword == "oneOf" and isinstance(node, dict) and set(node) == {"$ref"}:
            return self._inline(node["$ref"], scope)
        return self._bound(node, scope)

    # References.

    def _refer(self, schema: _Schema, scope: _Scope) -> Node:
        rounds = self._rounds_left(schema["$ref"], scope)
        if rounds is None:
            return False
        return {**schema, "$ref": f"#/$defs/{self._name(schema['$ref'], rounds)}"}

    def _rounds_left(self, target: str, scope: _Scope) -> int | None:
        """`None` where too few are left for anything at all to fit."""
        rounds = scope.rounds - self._references.cost(scope.source, target)
        return rounds if rounds >= self._references.height(target) else None

    def _name(self, pointer: str, rounds: int) -> str:
        key = (pointer, rounds)
        if key not in self._named:
            self._named[key] = f"d{len(self._named)}"
            self._pending.append((self._named[key], pointer, rounds))
        return self._named[key]

    def _inline(self, target: str, scope: _Scope) -> Node:
        rounds = self._rounds_left(target, scope)
        if rounds is None:
            return False
        return self._bound(self._references.node(target), _Scope(target, rounds, scope.names))

    # Several schemas for one instance.

    def _merged(self, schema: _Schema, scope: _Scope) -> Node:
        """An object's keys are those that any of its schemas names: none of them is shut out."""
        options = [each for keyword in ("anyOf", "oneOf") for each in schema.get(keyword, ())]
        rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
        shared = self._names(rest, set()) | (scope.names or frozenset())
        every = shared.union(*(self._names(each, set()) for each in options))
        together = replace(scope, names=frozenset(every))
        target = rest.pop("$ref", None)
        narrowed = self._narrow(rest, together)
        if options:
            narrowed.update({k: schema[k] for k in ("anyOf", "oneOf") if k in schema})
        bounded = self._inner(narrowed, together, replace(scope, names=frozenset(shared)))
        if target is not None:
            followed = self._inline(target, together)
            bounded["allOf"] = [*bounded.get("allOf", ()), followed]
        return bounded

    def _names(self, node: Node, seen: set[str]) -> frozenset[str]:
        """Every key that `node` says anything about."""
        if not isinstance(node, dict):
            return frozenset()
        schema: _Schema = node
        names = {*schema.get("properties", ()), *schema.get("required", ())}
        inner = [each for k in ("allOf", "anyOf", "oneOf") for each in schema.get(k, ())]
        if (target := schema.get("$ref")) is not None and target not in seen:
            seen.add(target)
            inner.append(self._references.node(target))
        return frozenset(names.union(*(self._names(each, seen) for each in inner)))

    # Bounds.

    def _narrow(self, schema: _Schema, scope: _Scope) -> _Schema:
        kinds = schema.get("type", ())
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            match kind:
                case "string":
                    schema = _narrow_string(schema)
                case "integer" | "number":
                    schema = _narrow_number(schema, whole=kind == "integer" or "integer" in kinds)
                case "array":
                    schema = self._narrow_array(schema, scope)
                case "object":
                    schema = self._narrow_object(schema, scope)
                case _:
                    pass
        if scope.names is not None and "type" not in schema and _speaks_of(schema, "object"):
            schema = self._narrow_object(schema, scope)
        return schema

    def _narrow_array(self, schema: _Schema, scope: _Scope) -> _Schema:
        first = schema.get("prefixItems", ())
        least = max(schema.get("minItems", 0), len(first))
        narrowed = {**schema, "maxItems": schema.get("maxItems", max(MAX_ITEMS, least))}
        if scope.names is None and "items" not in schema:
            narrowed["items"] = schema.get("minItems", 0) > len(first) or not first
        return narrowed

    def _narrow_object(self, schema: _Schema, scope: _Scope) -> _Schema:
        rest = schema.get("additionalProperties", True)
        if "properties" in schema or "required" in schema:
            return schema if "additionalProperties" in schema else _close(schema, scope.names)
        if scope.names is not None or "patternProperties" in schema or rest is False:
            return schema
        most = schema.get("maxProperties", max(MAX_ITEMS, schema.get("minProperties", 0)))
        keys = {"patternProperties": {_KEY: rest}, "additionalProperties": False}
        return {**schema, **keys, "maxProperties": most}

    def _any(self, depth: int) -> _Schema:
        """Any value that goes `depth` levels down."""
        name = f"any{depth}"
        if name not in self._definitions:
            scalars: list[_Schema] = [
                {"type": ["null", "boolean"]},
                _narrow_string({"type": "string"}),
                _narrow_number({"type": "number"}, whole=False),
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
    """Whether more than one schema holds for the same instance."""
    own = "type" in schema or any(_speaks_of(schema, kind) for kind in _KINDS)
    others = [keyword for keyword in ("$ref", "anyOf", "oneOf") if keyword in schema]
    return "allOf" in schema or len(others) > 1 or (own and bool(others))


def _speaks_of(schema: _Schema, kind: str) -> bool:
    return any(keyword in schema for keyword in _KINDS[kind])


def _with_type(schema: _Schema) -> _Schema:
    """A schema without `type` is about what its keywords are about, or about anything."""
    if "type" in schema:
        return schema
    kinds = [kind for kind in _KINDS if _speaks_of(schema, kind)]
    return {**schema, "type": kinds or ["null", "boolean", "number", "string", "array", "object"]}


def _close(schema: _Schema, names: frozenset[str] | None) -> _Schema:
    properties = dict(schema.get("properties", {}))
    for name in (*schema.get("required", ()), *sorted(names or ())):
        properties.setdefault(name, True)
    return {**schema, "properties": properties, "additionalProperties": False}


def _narrow_string(schema: _Schema) -> _Schema:
    return {"maxLength": MAX_LENGTH + schema.get("minLength", 0), **schema}


def _narrow_number(schema: _Schema, *, whole: bool) -> _Schema:
    size = _INTEGER if whole else _NUMBER
    low = [schema[k] for k in ("minimum", "exclusiveMinimum") if _is_number(schema.get(k))]
    high = [schema[k] for k in ("maximum", "exclusiveMaximum") if _is_number(schema.get(k))]
    narrowed = dict(schema)
    if not low:
        narrowed["minimum"] = min([-size, *(-2 * abs(each) for each in high)])
    if not high:
        narrowed["maximum"] = max([size, *(2 * abs(each) for each in low)])
    if not whole:
        if low and high and 0 <= min(high) - max(low) < _SMALLEST_RANGE:
            # llguidance 1.9 lets 0 pass as more than 0 there.
            raise InvalidRequestError("Numbers in so small a range cannot be enforced.")
        narrowed.setdefault("multipleOf", _DECIMALS)
    return narrowed


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
