"""Rewrite a JSON schema to one that Ollama's grammar enforces as it stands.

Its runner is llama.cpp, which turns a schema into a grammar, silently ignores what it cannot
express, and refuses what it does not expect: `true` as a schema, a number as text, `\\d`. The
rewritten schema is built anew from the keywords that the grammar enforces; everything else is left
out and named. So a keyword that nothing here has heard of is no error.

Source: `common/json-schema-to-grammar.cpp`, and the answers of a 0.33.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from msgspec import Struct

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.ollama.translate.format_patterns import PATTERNS
from adapters.ollama.translate.grammar_pattern import (
    MOST_REPEATS,
    UnreadablePatternError,
    to_grammar_pattern,
)
from adapters.ollama.translate.json_schema import as_list
from adapters.property_names import allows_every_name

Schema = Mapping[str, Any]
_Node = dict[str, Any]

_ANY: Schema = {"type": ["object", "array", "string", "number", "boolean", "null"]}
"""An empty schema would be an object."""
_TYPES = frozenset([*_ANY["type"], "integer"])
_ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$anchor", "$comment", "$defs", "definitions"),
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
        *("discriminator", "example", "externalDocs", "xml"),
    }
)
"""Keywords that allow every value."""
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
"""Enforced by the grammar by their names; others of `format_patterns` as patterns."""
_OF_TYPE: Mapping[str, tuple[str, ...]] = {
    "object": (
        *("properties", "required", "additionalProperties"),
        *("patternProperties", "minProperties", "maxProperties"),
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems", "additionalItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""The keywords of a type, which imply it where `type` is absent."""
_LARGEST = 2**63 - 1
_MOST_SCHEMAS = 20_000


class GrammarSchema(Struct, frozen=True):
    schema: dict[str, Any]
    """The part that Ollama enforces."""
    left_out: tuple[str, ...] = ()
    """Paths of the keywords that no answer has to keep to."""
    must_check: bool = False
    """True for a strict schema with keywords that are checked in the answer, not enforced."""


def _impossible(keyword: str, value: Any) -> str:
    return f"'{keyword}' cannot be {json.dumps(value)[:80]} in a JSON schema."


class _Unenforced(Struct, frozen=True):
    """A keyword that the grammar does not enforce."""

    path: str
    keyword: str
    mistake: str = ""
    """The fault of the schema itself, if it has one."""

    def to_error(self) -> InvalidRequestError:
        if self.mistake:
            return InvalidRequestError(self.mistake, param=self.path)
        return UnsupportedParameterError(
            f"Ollama cannot enforce the schema's '{self.keyword}' ({self.path}), as 'strict'"
            " demands.",
            param=self.path,
        )


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
        one = _Rewriting(schema, place, len(self.definitions))
        try:
            node = one.node(schema, place)
        except RecursionError:
            reason = "The schema is too large, or nested too deeply."
            one = _Rewriting(True, place, len(self.definitions))
            node, one.unenforced = {"type": "object"}, [_Unenforced(place, "", reason)]
        if strict and one.unenforced:
            raise one.unenforced[0].to_error()
        self.definitions |= one.definitions
        # A strict schema is kept to: what the grammar leaves out is checked.
        loose = () if strict else (*one.unenforced, *one.checked)
        self.left_out += [part.path for part in loose]
        self.left_out += one.meaningless
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
    def __init__(self, root: Any, place: str, first: int) -> None:
        """`first`: the number of the first definition."""
        self.definitions: dict[str, Any] = {}
        self.unenforced: list[_Unenforced] = []
        self.checked: list[_Unenforced] = []
        """Keywords that every answer to a strict schema is checked for."""
        self.meaningless: list[str] = []
        """Paths of formats that say nothing."""
        self._root = root
        self._place = place
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
        if not isinstance(schema, dict):
            self._leave_out(path, str(schema).lower()[:20])
            return dict(_ANY)
        part = {k: v for k, v in cast(_Node, schema).items() if k not in _ANNOTATIONS}
        part = self._without_nulls(part, path)
        if allows_every_name(part.get("propertyNames")):
            del part["propertyNames"]
        if "$ref" in part and part.keys() - {"$ref", "type"}:
            # What stands beside a reference holds as well.
            part["allOf"] = [{"$ref": part.pop("$ref")}, *as_list(part.get("allOf"))]
        if "$ref" in part and (target := self._reference(part, path)):
            return target
        if "allOf" in part:
            part = self._merged(part, path)
            if "$ref" in part and (target := self._reference(part, path)):
                return target
        if "const" in part or as_list(part.get("enum")):
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
        types = self._types(part, path) if "type" in part else []
        fitting = [v for v in values if not types or any(_IS_OF[t](v) for t in types)]
        if not fitting:
            mistake = f"No value of the schema's '{keyword}' has its 'type'."
            self._leave_out(f"{path}.type", "type", mistake)
            fitting = values
        return {"const": fitting[0]} if keyword == "const" else {"enum": fitting}

    def _without_nulls(self, part: _Node, path: str) -> _Node:
        for keyword in [k for k, v in part.items() if v is None and k not in ("const", "enum")]:
            self._leave_out(f"{path}.{keyword}", keyword, _impossible(keyword, None))
            del part[keyword]
        return part

    def _leave_out(self, path: str, keyword: str, mistake: str = "") -> None:
        self.unenforced.append(_Unenforced(path, keyword, mistake))

    def _check(self, path: str, keyword: str) -> None:
        self.checked.append(_Unenforced(f"{path}.{keyword}", keyword))

    def _drop(self, part: _Node, path: str, keep: Iterable[str]) -> None:
        """Note every keyword of `part` that is not in `keep`."""
        for keyword in sorted(part.keys() - set(keep)):
            self._leave_out(f"{path}.{keyword}", keyword)

    # References.

    def _reference(self, part: _Node, path: str) -> _Node | None:
        """Move the target to a definition of a name that llama.cpp can read.

        `None` where there is no target: the reference is removed from `part`.
        """
        try:
            ref, target = self._target(part["$ref"])
        except LookupError as error:
            del part["$ref"]
            self._leave_out(f"{path}.$ref", "$ref", str(error.args[0]))
            return None
        self._drop(part, path, keep=("$ref", "type"))
        if ref in self._heads:
            del part["$ref"]
            self._leave_out(f"{path}.$ref", "$ref", f"The $ref '{ref}' refers to itself.")
            return None
        if ref not in self._names:
            self._names[ref] = name = f"d{self._first + len(self._names)}"
            self.definitions[name] = dict(_ANY)  # Its place, before those that it refers to.
            self._heads.add(ref)
            self.definitions[name] = self.node(target, self._place + ref)
            self._heads.discard(ref)
        return {"$ref": f"#/$defs/{self._names[ref]}"}

    def _target(self, ref: Any) -> tuple[str, Any]:
        """Follow `ref` over schemas that are nothing but a reference.

        Raises:
            LookupError: it leads nowhere; the argument is a message for the client.
        """
        seen: set[str] = set()
        while True:
            if not isinstance(ref, str) or not f"{ref}/".startswith("#/"):
                raise LookupError(
                    "A $ref must point into the schema itself, as '#/$defs/NAME' does."
                )
            if ref in seen:
                raise LookupError(f"The $ref '{ref}' refers to itself.")
            seen.add(ref)
            target: Any = self._at(ref)
            if not isinstance(target, dict) or "$ref" not in target:
                return ref, cast(Any, target)
            ref = cast(_Node, target)["$ref"]

    def _at(self, ref: str) -> Any:
        from urllib.parse import unquote  # Few schemas have a reference.

        node: Any = self._root
        for step in unquote(ref).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            try:
                is_list = isinstance(node, list)
                node = node[int(key) if is_list else key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise LookupError(f"The $ref '{ref}' has no target in the schema.") from None
        return node

    # Several schemas for one value.

    def _merged(self, part: _Node, path: str) -> _Node:
        """Merge the schemas of `allOf` as far as their keywords do not meet."""
        merged = {k: v for k, v in part.items() if k != "allOf"}
        branches: Any = part["allOf"]
        if not isinstance(branches, list):
            self._leave_out(f"{path}.allOf", "allOf")
            return merged
        for branch in cast(list[Any], branches):
            if isinstance(branch, dict) and (merged or len(cast(list[Any], branches)) > 1):
                branch = self._resolved(cast(_Node, branch))
            if not self._merge(merged, branch):
                self._leave_out(f"{path}.allOf", "allOf")
        return self._merged(merged, path) if "allOf" in merged else merged

    def _resolved(self, branch: _Node) -> Any:
        try:
            return self._target(branch["$ref"])[1] if "$ref" in branch else branch
        except LookupError:
            return None

    def _merge(self, merged: _Node, branch: Any) -> bool:
        """Add `branch` to `merged`; false where a part of it is lost."""
        if not isinstance(branch, dict):
            return branch is True
        complete = True
        for keyword, value in cast(_Node, branch).items():
            if keyword in _ANNOTATIONS or merged.get(keyword, value) == value:
                merged.setdefault(keyword, value)
            elif keyword == "properties" and _are(dict, merged[keyword], value):
                complete &= not (merged[keyword].keys() & value.keys())
                merged[keyword] = value | merged[keyword]
            elif keyword in ("required", "allOf") and _are(list, merged[keyword], value):
                merged[keyword] = [*merged[keyword], *value]
            else:
                complete = False
        return complete

    def _union(self, key: str, part: _Node, path: str) -> _Node | None:
        """Return the union; `None` where the keywords beside it say more than it does."""
        branches: Any = part[key]
        if not isinstance(branches, list) or not branches or "properties" in part:
            return None
        kept = {"type": part["type"]} if "type" in part else {}
        self._drop(part, path, keep=(key, "type"))
        nodes = [
            self.node(kept | cast(_Node, b) if isinstance(b, dict) else b, f"{path}.{key}[{at}]")
            for at, b in enumerate(cast(list[Any], branches))
            if b is not False
        ]
        return {"anyOf": nodes} if nodes else None

    # One type, or several.

    def _typed(self, part: _Node, path: str) -> _Node:
        types = self._types(part, path)
        if not types:
            self._drop(part, path, keep=("type",))
            return dict(_ANY)
        kinds = {"number" if name == "integer" else name for name in types}
        # The keywords of another type say nothing about this one.
        self._drop(part, path, keep=("type", *itertools.chain.from_iterable(_OF_TYPE.values())))
        node: _Node = {"type": types[0] if len(types) == 1 else types}
        heads, self._heads = self._heads, set()
        for kind, keywords in _OF_TYPE.items():
            if kind in kinds and any(keyword in part for keyword in keywords):
                node |= _WRITERS[kind](self, part, path)
        self._heads = heads
        return node

    def _types(self, part: _Node, path: str) -> list[str]:
        """Return the types of `part`, or what its keywords imply."""
        own: Any = part.get("type", [])
        named = cast(list[Any], own) if isinstance(own, list) else [own]
        types = list(dict.fromkeys(t for t in named if isinstance(t, str) and t in _TYPES))
        if len(types) < len(named):
            self._leave_out(f"{path}.type", "type", _impossible("type", own))
        if types or "type" in part:
            return types
        return [kind for kind, keywords in _OF_TYPE.items() if part.keys() & set(keywords)]

    def _object(self, part: _Node, path: str) -> _Node:
        own = part.get("properties", {})
        if not isinstance(own, dict):
            self._leave_out(f"{path}.properties", "properties")
            own = {}
        properties = {
            name: self.node(schema, f"{path}.properties.{name}")
            for name, schema in cast(_Node, own).items()
            if schema is not False
        }
        others = self._others(part, path)
        required = self._required(part, path)
        if part.get("additionalProperties") is False and not set(required) <= properties.keys():
            self._leave_out(f"{path}.required", "required")
            required = [name for name in required if name in properties]
        properties |= {name: dict(_ANY) for name in required if name not in properties}
        if (self._number(part, "minProperties", path) or 0) > len(required):
            self._check(path, "minProperties")
        most = self._number(part, "maxProperties", path)
        if most is not None and (others is not False or most < len(properties)):
            self._check(path, "maxProperties")
        if not properties and others is True:
            return {}
        node: _Node = {"properties": properties}
        if "additionalProperties" in part or others is not False:
            node["additionalProperties"] = others
        return node | ({"required": required} if required else {})

    def _required(self, part: _Node, path: str) -> list[str]:
        required: Any = part.get("required", [])
        if isinstance(required, list):
            names = [name for name in cast(list[Any], required) if isinstance(name, str)]
            if len(names) == len(cast(list[Any], required)):
                return names
        self._leave_out(f"{path}.required", "required")  # `true` in a property, by an old draft.
        return []

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
        if not isinstance(others, dict):
            self._leave_out(f"{path}.additionalProperties", "additionalProperties")
            return "properties" not in part
        return self.node(others, f"{path}.additionalProperties")

    def _array(self, part: _Node, path: str) -> _Node:
        items: Any = part.get("items", True)
        prefix: Any = part.get("prefixItems", items if isinstance(items, list) else None)
        if isinstance(prefix, list) and prefix:
            return self._tuple(part, cast(list[Any], prefix), path)
        if prefix is not None and not isinstance(items, list):
            self._leave_out(f"{path}.prefixItems", "prefixItems")
        least = self._number(part, "minItems", path)
        most = self._number(part, "maxItems", path)
        if items is False or (isinstance(items, list) and part.get("additionalItems") is False):
            most = 0
        kept = True if items is False or isinstance(items, list) else items
        schema = self.node(kept, f"{path}.items")
        return {"items": schema} | self._span(least, most, "minItems", "maxItems", path)

    def _tuple(self, part: _Node, prefix: list[Any], path: str) -> _Node:
        """The grammar writes all of the first items, and no further ones."""
        least = self._number(part, "minItems", path)
        most = self._number(part, "maxItems", path)
        if least is not None and least > len(prefix):
            self._leave_out(f"{path}.minItems", "minItems")
        if most is not None and most < len(prefix):
            self._leave_out(f"{path}.maxItems", "maxItems")
        return {
            "prefixItems": [
                self.node(item, f"{path}.prefixItems[{at}]") for at, item in enumerate(prefix)
            ]
        }

    def _string(self, part: _Node, path: str) -> _Node:
        least = self._number(part, "minLength", path)
        most = self._number(part, "maxLength", path)
        node: _Node = {}
        if "pattern" in part:
            try:
                node["pattern"] = to_grammar_pattern(part["pattern"])
            except (UnreadablePatternError, TypeError):
                self._leave_out(f"{path}.pattern", "pattern")
        self._format(node, part, path)
        if not node:
            return self._span(least, most, "minLength", "maxLength", path)
        least, most = self._in_order(least, most, "minLength", "maxLength", path)
        for keyword, value in (("minLength", least), ("maxLength", most)):
            if value is not None and (value or keyword == "maxLength"):
                self._check(path, keyword)  # The grammar has either a pattern or a length.
        return node

    def _format(self, node: _Node, part: _Node, path: str) -> None:
        if "format" not in part:
            return
        name: Any = part["format"]
        if not isinstance(name, str) or name not in PATTERNS:
            # To JSON Schema a format is an annotation.
            self.meaningless.append(f"{path}.format")
        elif "pattern" in node:
            self._check(path, "format")
        elif name in _FORMATS:
            node["format"] = name
        else:
            node["pattern"] = to_grammar_pattern(PATTERNS[name])

    def _span(
        self, least: int | None, most: int | None, low: str, high: str, path: str
    ) -> dict[str, int]:
        least, most = self._in_order(least, most, low, high, path)
        span: dict[str, int] = {}
        for keyword, value in ((low, least), (high, most)):
            if value is not None and value > MOST_REPEATS:
                self._check(path, keyword)
            elif value is not None and (value or keyword == high):
                span[keyword] = value
        return span

    def _number_bounds(self, part: _Node, path: str) -> _Node:
        types = part.get("type")
        of_integers = types == "integer" or (
            isinstance(types, list) and "integer" in types and "number" not in types
        )
        low = self._bound(part, "minimum", "exclusiveMinimum", path, of_integers, 1)
        high = self._bound(part, "maximum", "exclusiveMaximum", path, of_integers, -1)
        low, high = self._in_order(low, high, "minimum", "maximum", path)
        node: _Node = {}
        for keyword, value, sign in (("minimum", low, 1), ("maximum", high, -1)):
            if value is None:
                continue
            if of_integers and abs(value) < _LARGEST:
                node[keyword] = value
            elif not of_integers or value * sign > 0:
                self._check(path, keyword)
            # Every integer that the grammar can write is inside any other bound.
        step = self._number(part, "multipleOf", path, whole=False)
        if step is not None and step > 0:
            self._check(path, "multipleOf")
        elif step is not None:
            self._leave_out(f"{path}.multipleOf", "multipleOf")
        return node

    def _bound(
        self, part: _Node, keyword: str, exclusive: str, path: str, of_integers: bool, step: int
    ) -> Any:
        """Return the stricter of both bounds; of integers the last integer inside."""
        values: list[Any] = []
        excluded = part.get(exclusive)
        flag = excluded if isinstance(excluded, bool) else None  # By draft 4, about `keyword`.
        if (value := self._number(part, keyword, path, whole=False)) is not None:
            values.append(_inside(value, step, bool(flag)) if of_integers else value)
        if flag is None:
            value = self._number(part, exclusive, path, whole=False)
            if value is not None:
                values.append(_inside(value, step, True) if of_integers else value)
        return None if not values else (max(values) if step > 0 else min(values))

    def _number(self, part: _Node, keyword: str, path: str, *, whole: bool = True) -> Any:
        """Return the number of `keyword`, also where it is written as text."""
        value: Any = part.get(keyword)
        if value is None:
            return None
        try:
            if isinstance(value, bool):
                raise TypeError
            if not isinstance(value, int):
                number = float(value)
                value = int(number) if number.is_integer() else number
            # An integer has no bounds here: `isfinite` would refuse one beyond a double's range.
            is_finite = isinstance(value, int) or math.isfinite(value)
            if not is_finite or (whole and (isinstance(value, float) or value < 0)):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            self._leave_out(f"{path}.{keyword}", keyword)
            return None
        return value

    def _in_order(self, low: Any, high: Any, lower: str, upper: str, path: str) -> tuple[Any, Any]:
        """Return both bounds, or none where no value is between them."""
        if low is None or high is None or low <= high:
            return low, high
        for keyword in (lower, upper):
            mistake = f"The schema's '{lower}' is above '{upper}'."
            self._leave_out(f"{path}.{keyword}", keyword, mistake)
        return None, None


def _inside(value: Any, step: int, exclusive: bool) -> int:
    """Return the first integer that is not beyond `value`, seen in the direction of `step`."""
    integer = math.ceil(value) if step > 0 else math.floor(value)
    return integer + step if exclusive and integer == value else integer


def _are(kind: type, *values: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _is_for_all_names(patterns: Any) -> bool:
    """True for one pattern that every name matches, as TypeBox writes for records."""
    return (
        isinstance(patterns, dict) and len(cast(_Node, patterns)) == 1 and patterns.keys() <= _ALL
    )


_ALL = frozenset({"", ".*", "^.*$", "^(.*)$", "^.*", ".*$"})


_IS_OF: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == int(v),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
}
_Writer = Callable[[_Rewriting, _Node, str], _Node]
_WRITERS: Mapping[str, _Writer] = {
    "object": _Rewriting._object,  # pyright: ignore[reportPrivateUsage]
    "array": _Rewriting._array,  # pyright: ignore[reportPrivateUsage]
    "string": _Rewriting._string,  # pyright: ignore[reportPrivateUsage]
    "number": _Rewriting._number_bounds,  # pyright: ignore[reportPrivateUsage]
}
