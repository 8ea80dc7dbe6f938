"""Rewrite a JSON schema to one that Ollama's grammar enforces as it stands.

Its runner is llama.cpp, which turns a schema into a grammar, silently ignores what it cannot
express, and refuses what it does not expect: `true` as a schema, a number as text, `\\d`. The
rewritten schema is built anew from the keywords that the grammar enforces; everything else is left
out and named. So a keyword that nothing here has heard of is no error.

Source: `common/json-schema-to-grammar.cpp`, and the answers of a 0.33.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from msgspec import Struct

from adapters.json_schema.fault import Fault
from adapters.json_schema.keywords import DEFINITIONS, IS_OF, KEYWORDS_OF
from adapters.json_schema.reading import read_schema
from adapters.json_schema.references import resolve
from adapters.ollama.translate.format_patterns import PATTERNS
from adapters.ollama.translate.grammar_pattern import (
    MOST_REPEATS,
    UnreadablePatternError,
    to_grammar_pattern,
)
from adapters.ollama.translate.schema_types import (
    common_types,
    exclude_each_other,
    listed,
    of_types,
    types_of,
)

Schema = Mapping[str, Any]
_Node = dict[str, Any]

_ANY: Schema = {"type": ["object", "array", "string", "number", "boolean", "null"]}
"""An empty schema would be an object."""
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
"""Enforced by the grammar by their names; others of `format_patterns` as patterns."""
_LARGEST = 2**63 - 1
_MOST_SCHEMAS = 20_000


class GrammarSchema(Struct, frozen=True):
    schema: dict[str, Any]
    """The part that Ollama enforces."""
    left_out: tuple[str, ...] = ()
    """Paths of the keywords that no answer has to keep to."""
    must_check: bool = False
    """True for a strict schema with keywords that are checked in the answer, not enforced."""


class SchemaRewriter:
    """Rewrites the schemas of one request, which share their definitions."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        """Name -> schema, for `$defs` at the root of the result."""
        self.left_out: list[str] = []
        self.must_check = False

    def rewrite(self, schema: Any, place: str, *, strict: bool) -> _Node:
        """Return `schema` as Ollama enforces it, with references to `definitions`.

        `place` is the path of the schema in the request, for `left_out` and errors.

        Raises:
            InvalidRequestError: `strict`, and no value fits the schema, or a `$ref` has no target.
            UnsupportedParameterError: `strict`, and a keyword cannot be enforced.
        """
        kept, faults = read_schema(schema)
        one = _Rewriting(kept, faults, len(self.definitions))
        try:
            node = one.node(kept, "")
        except RecursionError:
            fault = Fault("", "", "The schema's references unroll to too many schemas.", True)
            one = _Rewriting(True, [fault], len(self.definitions))
            node = {"type": "object"}
        if strict and one.faults:
            raise one.faults[0].to_error(place)
        self.definitions |= one.definitions
        # A strict schema is kept to: what the grammar leaves out is checked.
        loose = () if strict else (*one.faults, *one.checked)
        self.left_out += [place + fault.path for fault in (*loose, *one.meaningless)]
        self.must_check = self.must_check or (strict and bool(one.checked))
        return node

    def result(self, node: _Node) -> GrammarSchema:
        """Return the result for `node`, made of rewritten schemas."""
        if "" in node.get("properties", ()):
            # llama.cpp calls the rule of this property "root": its value would be the answer.
            name = f"d{len(self.definitions)}"
            self.definitions[name] = node
            node = {"$ref": f"#/$defs/{name}"}
        schema = node | ({"$defs": self.definitions} if self.definitions else {})
        return GrammarSchema(schema, tuple(dict.fromkeys(self.left_out)), self.must_check)


def to_grammar_schema(schema: Schema, place: str, *, strict: bool) -> GrammarSchema:
    """Rewrite one schema; the arguments and errors are those of `SchemaRewriter.rewrite`."""
    rewriter = SchemaRewriter()
    return rewriter.result(rewriter.rewrite(schema, place, strict=strict))


class _Rewriting:
    def __init__(self, root: Any, faults: list[Fault], first: int) -> None:
        """`root` is a schema without `faults`; `first` the number of the first definition."""
        self.definitions: dict[str, Any] = {}
        self.faults = faults
        self.checked: list[Fault] = []
        """Keywords that every answer to a strict schema is checked for."""
        self.meaningless: list[Fault] = []
        """Formats that say nothing."""
        self._root = root
        self._first = first
        self._names: dict[str, str] = {}
        self._heads: set[str] = set()
        """References being followed of which nothing was written yet: another turn has no end."""
        self._count = 0

    def node(self, schema: Any, path: str) -> _Node:
        """Return the rewritten `schema`."""
        self._count += 1
        if self._count > _MOST_SCHEMAS:
            raise RecursionError
        if schema is True:
            return dict(_ANY)
        if schema is False:
            self._leave_out(path, "false")
            return dict(_ANY)
        part = self._merged({k: v for k, v in schema.items() if k not in DEFINITIONS}, path)
        if "$ref" in part and (target := self._reference(part, path)):
            return target
        if "const" in part or "enum" in part:
            return self._values(part, path)
        for key in ("anyOf", "oneOf"):
            if key in part and (union := self._union(key, part, path)):
                return union
        return self._typed(part, path)

    def _values(self, part: _Node, path: str) -> _Node:
        """Return the values of `part`; what stands beside them can only exclude some."""
        keyword = "const" if "const" in part else "enum"
        for name in sorted(part.keys() - {keyword, "type"}):
            self._check(path, name)
        values = cast(list[Any], [part["const"]] if keyword == "const" else part["enum"])
        types = types_of(part) if "type" in part else []
        fitting = [v for v in values if not types or any(IS_OF[t](v) for t in types)]
        if not fitting:
            mistake = f"No value of the schema's '{keyword}' has its 'type'."
            self.faults.append(Fault(f"{path}.type", "type", mistake, True))
            fitting = values
        return {"const": fitting[0]} if keyword == "const" else {"enum": fitting}

    def _leave_out(self, path: str, keyword: str) -> None:
        reason = f"Ollama cannot enforce the schema's '{keyword}'."
        self.faults.append(Fault(path, keyword, reason))

    def _check(self, path: str, keyword: str) -> None:
        self.checked.append(Fault(f"{path}.{keyword}", keyword, "It is not enforced."))

    def _drop(self, part: _Node, path: str, keep: Iterable[str]) -> None:
        """Note every keyword of `part` that is not in `keep`."""
        for keyword in sorted(part.keys() - set(keep)):
            self._leave_out(f"{path}.{keyword}", keyword)

    # References.

    def _reference(self, part: _Node, path: str) -> _Node | None:
        """Move the target to a definition of a name that llama.cpp can read.

        `None` where the grammar would have no end: the reference is removed from `part`.
        """
        ref, target = self._target(part["$ref"])
        if ref in self._heads:
            del part["$ref"]
            reason = f"The $ref '{ref}' refers to itself."
            self.faults.append(Fault(f"{path}.$ref", "$ref", reason, True))
            return None
        if ref not in self._names:
            self._names[ref] = name = f"d{self._first + len(self._names)}"
            self.definitions[name] = dict(_ANY)  # Its place, before those that it refers to.
            self._heads.add(ref)
            self.definitions[name] = self.node(target, ref.removeprefix("#").replace("/", "."))
            self._heads.discard(ref)
        return {"$ref": f"#/$defs/{self._names[ref]}"}

    def _target(self, ref: str) -> tuple[str, Any]:
        """Follow `ref` over schemas that are nothing but a reference."""
        target: Any = resolve(self._root, ref)
        while isinstance(target, dict) and cast(_Node, target).keys() == {"$ref"}:
            ref = cast(_Node, target)["$ref"]
            target = resolve(self._root, ref)
        return ref, cast(Any, target)

    # Several schemas for one value.

    def _merged(self, part: _Node, path: str) -> _Node:
        """Merge the schemas of `allOf`, and a reference with what stands beside it.

        A reference is all of the result, or none of it.
        """
        if "$ref" in part and not self._says_all(part):
            part = {k: v for k, v in part.items() if k != "$ref"} | {
                "allOf": [{"$ref": part["$ref"]}, *part.get("allOf", ())]
            }
        if "allOf" not in part:
            return part
        merged = {k: v for k, v in part.items() if k != "allOf"}
        branches = cast(list[Any], part["allOf"])
        for branch in branches:
            if isinstance(branch, dict) and (merged or len(branches) > 1):
                branch = self._resolved(cast(_Node, branch))
            if not self._merge(merged, branch):
                self._leave_out(f"{path}.allOf", "allOf")
        return self._merged(merged, path)

    def _says_all(self, part: _Node) -> bool:
        """True where nothing stands beside the reference of `part`, or a type of its target."""
        _, target = self._target(part["$ref"])
        if part.keys() == {"$ref", "type"} and isinstance(target, dict) and "type" in target:
            own = listed(cast(_Node, target)["type"])
            return common_types(own, listed(part["type"])) == own
        return part.keys() == {"$ref"}

    def _resolved(self, branch: _Node) -> Any:
        """Return `branch` with the target of its reference in place of that."""
        if "$ref" not in branch:
            return branch
        _, target = self._target(branch["$ref"])
        rest = {keyword: value for keyword, value in branch.items() if keyword != "$ref"}
        if not rest and not _has_reference(target):
            return target
        return rest | {"allOf": [target, *rest.get("allOf", [])]}

    def _merge(self, merged: _Node, branch: Any) -> bool:
        """Add `branch` to `merged`; false where a part of it is lost."""
        if not isinstance(branch, dict):
            return branch is True
        other = cast(_Node, branch)
        complete = not (_limits_names(merged, other) or _limits_names(other, merged))
        for keyword, value in other.items():
            if keyword in DEFINITIONS:
                continue
            if merged.get(keyword, value) == value:
                merged.setdefault(keyword, value)
            elif keyword == "properties" and _are(dict, merged[keyword], value):
                complete &= not (merged[keyword].keys() & value.keys())
                merged[keyword] = value | merged[keyword]
            elif keyword in ("required", "allOf") and _are(list, merged[keyword], value):
                merged[keyword] = [*merged[keyword], *value]
            elif keyword == "type" and (
                common := common_types(listed(merged["type"]), listed(value))
            ):
                merged["type"] = common
            else:
                complete = False
        return complete

    def _union(self, key: str, part: _Node, path: str) -> _Node | None:
        """Return the union; `None` where the keywords beside it say more than it does."""
        if "properties" in part:
            return None
        self._drop(part, path, keep=(key, "type"))
        options = cast(list[Any], part[key])
        if "type" in part:
            options = [of_types(option, listed(part["type"])) for option in options]
        if key == "oneOf" and not self._are_exclusive(options):
            self._check(path, key)
        nodes = [
            self.node(option, f"{path}.{key}[{at}]")
            for at, option in enumerate(options)
            if option is not False
        ]
        if not nodes:
            reason = f"The schema's '{key}' allows no value."
            self.faults.append(Fault(f"{path}.{key}", key, reason, True))
        return {"anyOf": nodes or [dict(_ANY)]}

    def _are_exclusive(self, options: list[Any]) -> bool:
        """True where no value can be of two of the alternatives, as far as it is easily seen."""
        shapes = [
            self._resolved(cast(_Node, option)) if isinstance(option, dict) else option
            for option in options
            if option is not False
        ]
        return all(itertools.starmap(exclude_each_other, itertools.combinations(shapes, 2)))

    # One type, or several.

    def _typed(self, part: _Node, path: str) -> _Node:
        types = types_of(part)
        if not types:
            self._drop(part, path, keep=("type",))
            return dict(_ANY)
        kinds = {"number" if name == "integer" else name for name in types}
        # The keywords of another type say nothing about this one.
        self._drop(part, path, keep=("type", *itertools.chain.from_iterable(KEYWORDS_OF.values())))
        node: _Node = {"type": types[0] if len(types) == 1 else types}
        heads, self._heads = self._heads, set()
        for kind, keywords in KEYWORDS_OF.items():
            if kind in kinds and any(keyword in part for keyword in keywords):
                node |= _WRITERS[kind](self, part, path)
        self._heads = heads
        return node

    def _object(self, part: _Node, path: str) -> _Node:
        own = cast(_Node, part.get("properties", {}))
        properties = {
            name: self.node(schema, f"{path}.properties.{name}")
            for name, schema in own.items()
            if schema is not False
        }
        others = self._others(part, path)
        if len(properties) < len(own) and others is not False:
            self._check(path, "properties")  # A forbidden one may come among the others.
        required: list[str] = part.get("required", [])
        is_closed = part.get("additionalProperties") is False
        if any(name in own or is_closed for name in required if name not in properties):
            self._leave_out(f"{path}.required", "required")
            required = [name for name in required if name in properties]
        properties |= {name: dict(_ANY) for name in required if name not in properties}
        if part.get("minProperties", 0) > len(required):
            self._check(path, "minProperties")
        most = part.get("maxProperties")
        if most is not None and (others is not False or most < len(properties)):
            self._check(path, "maxProperties")
        if not properties and others is True:
            return {}
        node: _Node = {"properties": properties}
        if "additionalProperties" in part or others is not False:
            node["additionalProperties"] = others
        return node | ({"required": required} if required else {})

    def _others(self, part: _Node, path: str) -> bool | _Node:
        others: Any = part.get("additionalProperties", "properties" not in part)
        if "patternProperties" in part:
            patterns: Any = part["patternProperties"]
            if _is_for_all_names(patterns) and not part.get("properties"):
                (schema,) = patterns.values()
                return self.node(schema, f"{path}.patternProperties")
            self._leave_out(f"{path}.patternProperties", "patternProperties")
            return True
        if others is True or others == {}:
            return True
        if others is False:
            return False
        return self.node(others, f"{path}.additionalProperties")

    def _array(self, part: _Node, path: str) -> _Node:
        items: Any = part.get("items", True)
        if "prefixItems" in part:
            return self._tuple(part, cast(list[Any], part["prefixItems"]), path)
        if items is False:
            part, items = part | {"maxItems": 0}, True
        schema = self.node(items, f"{path}.items")
        return {"items": schema} | self._span(part, "minItems", "maxItems", path)

    def _tuple(self, part: _Node, prefix: list[Any], path: str) -> _Node:
        """The grammar writes all of the first items, and no further ones."""
        if part.get("minItems", 0) > len(prefix):
            self._leave_out(f"{path}.minItems", "minItems")
        if part.get("maxItems", len(prefix)) < len(prefix):
            self._leave_out(f"{path}.maxItems", "maxItems")
        return {
            "prefixItems": [
                self.node(item, f"{path}.prefixItems[{at}]") for at, item in enumerate(prefix)
            ]
        }

    def _string(self, part: _Node, path: str) -> _Node:
        node: _Node = {}
        if "pattern" in part:
            try:
                node["pattern"] = to_grammar_pattern(part["pattern"])
            except UnreadablePatternError:
                self._leave_out(f"{path}.pattern", "pattern")
        self._format(node, part, path)
        if not node:
            return self._span(part, "minLength", "maxLength", path)
        for keyword in ("minLength", "maxLength"):
            if part.get(keyword) or (keyword == "maxLength" and keyword in part):
                self._check(path, keyword)  # The grammar has either a pattern or a length.
        return node

    def _format(self, node: _Node, part: _Node, path: str) -> None:
        if "format" not in part:
            return
        name: str = part["format"]
        if name not in PATTERNS:
            # To JSON Schema a format is an annotation.
            reason = f"Unknown format '{name}'."
            self.meaningless.append(Fault(f"{path}.format", "format", reason, is_annotation=True))
        elif "pattern" in node:
            self._check(path, "format")
        elif name in _FORMATS:
            node["format"] = name
        else:
            node["pattern"] = to_grammar_pattern(PATTERNS[name])

    def _span(self, part: _Node, low: str, high: str, path: str) -> dict[str, int]:
        span: dict[str, int] = {}
        for keyword in (low, high):
            value: int | None = part.get(keyword)
            if value is not None and value > MOST_REPEATS:
                self._check(path, keyword)
            elif value is not None and (value or keyword == high):
                span[keyword] = value
        if low in span and span[low] > span.get(high, math.inf):
            # Each is from another schema of `allOf`.
            reason = f"The schema's '{low}' is above '{high}'."
            self.faults.append(Fault(f"{path}.{high}", high, reason, True))
            del span[high]
        return span

    def _number_bounds(self, part: _Node, path: str) -> _Node:
        types = part.get("type")
        of_integers = types == "integer" or (
            isinstance(types, list) and "integer" in types and "number" not in types
        )
        low = _bound(part, "minimum", "exclusiveMinimum", of_integers, 1)
        high = _bound(part, "maximum", "exclusiveMaximum", of_integers, -1)
        if low is not None and high is not None and low > high:
            reason = "No number is between the schema's 'minimum' and 'maximum'."
            self.faults.append(Fault(f"{path}.maximum", "maximum", reason, True))
            high = None
        node: _Node = {}
        for keyword, value, sign in (("minimum", low, 1), ("maximum", high, -1)):
            if value is None:
                continue
            if of_integers and abs(value) < _LARGEST:
                node[keyword] = value
            elif not of_integers or value * sign > 0:
                self._check(path, keyword)
            # Every integer that the grammar can write is inside any other bound.
        if "multipleOf" in part:
            self._check(path, "multipleOf")
        return node


def _bound(part: _Node, keyword: str, exclusive: str, of_integers: bool, step: int) -> Any:
    """Return the stricter of both bounds; of integers the last integer inside."""
    values: list[Any] = []
    if keyword in part:
        values.append(_inside(part[keyword], step, False) if of_integers else part[keyword])
    if exclusive in part:
        values.append(_inside(part[exclusive], step, True) if of_integers else part[exclusive])
    return None if not values else (max(values) if step > 0 else min(values))


def _inside(value: Any, step: int, exclusive: bool) -> int:
    """Return the first integer that is not beyond `value`, seen in the direction of `step`."""
    integer = math.ceil(value) if step > 0 else math.floor(value)
    return integer + step if exclusive and integer == value else integer


def _limits_names(one: _Node, other: _Node) -> bool:
    """True where `one` has demands on properties that only `other` names."""
    names = other.get("properties", {}).keys() - one.get("properties", {}).keys()
    return bool(names) and one.get("additionalProperties", True) not in (True, {})


def _has_reference(schema: Any) -> bool:
    return isinstance(schema, dict) and "$ref" in schema


def _are(kind: type, *values: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _is_for_all_names(patterns: Any) -> bool:
    """True for one pattern that every name matches, as TypeBox writes for records."""
    return (
        isinstance(patterns, dict) and len(cast(_Node, patterns)) == 1 and patterns.keys() <= _ALL
    )


_ALL = frozenset({"", ".*", "^.*$", "^(.*)$", "^.*", ".*$"})


_Writer = Callable[[_Rewriting, _Node, str], _Node]
_WRITERS: Mapping[str, _Writer] = {
    "object": _Rewriting._object,  # pyright: ignore[reportPrivateUsage]
    "array": _Rewriting._array,  # pyright: ignore[reportPrivateUsage]
    "string": _Rewriting._string,  # pyright: ignore[reportPrivateUsage]
    "number": _Rewriting._number_bounds,  # pyright: ignore[reportPrivateUsage]
}
