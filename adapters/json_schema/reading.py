"""Read a client's JSON schema: one meaning, and the same words for its mistakes, on every backend.

No list says what is unsupported: what is not among the keywords and values below is removed and
reported, so that an invented keyword is treated like a forgotten one.
"""

# pyright: basic
# Unvalidated JSON has no types that a strict check could use.
import json
from collections.abc import Callable
from typing import Any

from adapters.json_schema.fault import Fault
from adapters.json_schema.keywords import DEFINITIONS, IS_OF, LISTS, MAPS, SINGLES, Node, is_number
from adapters.json_schema.property_names import allows_every_name
from adapters.json_schema.references import settle_references
from adapters.json_schema.size import why_too_large

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


def read_schema(schema: Node) -> tuple[Any, list[Fault]]:
    """Return `schema` without annotations and faults, and the faults in their order.

    What is returned has known keywords with values that make sense, those of earlier drafts
    written as draft 2020-12 has them. Of a schema that is too large nothing but an object is left.
    """
    if reason := why_too_large(schema):
        return {"type": "object"}, [Fault("", "", reason)]
    reading = _Reading()
    kept = reading.node(schema, "")
    return kept, [*reading.faults, *settle_references(kept)]


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in IS_OF for name in names)


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
    return is_number(value) and value >= 0 and value % 1 == 0


_RANGES = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)
_OPEN_RANGES = (
    ("exclusiveMinimum", "exclusiveMaximum"),
    ("exclusiveMinimum", "maximum"),
    ("minimum", "exclusiveMaximum"),
)
_COUNTS = frozenset(keyword for pair in _RANGES[1:] for keyword in pair)
_EXCLUSIVE = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}
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
    **dict.fromkeys((*MAPS, *DEFINITIONS), _is_map),
    **dict.fromkeys(LISTS, _is_list),
    **dict.fromkeys(("pattern", "format"), _is_text),
    **dict.fromkeys(_COUNTS, _is_count),
    **dict.fromkeys(("minimum", "maximum", *_EXCLUSIVE.values()), is_number),
}
"""The keywords that a grammar can enforce, and the values that JSON Schema gives them."""


class _Reading:
    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def _schema(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for keyword, value in _without_flags(schema).items():
            at = f"{path}.{keyword}"
            if keyword in _ANNOTATIONS:
                continue
            if keyword == "propertyNames" and allows_every_name(value):
                continue
            if keyword not in _UNDERSTOOD:
                reason = f"The schema uses '{keyword[:80]}', which cannot be enforced."
                self.faults.append(Fault(at, keyword, reason))
            elif not _UNDERSTOOD[keyword](value):
                shown = json.dumps(value)[:80]
                reason = f"'{keyword}' cannot be {shown} in a JSON schema."
                self.faults.append(Fault(at, keyword, reason, True))
            else:
                kept[keyword] = self._value(keyword, value, at)
        for keyword, reason in {**_crossed_ranges(kept), **_excluded_values(kept)}.items():
            del kept[keyword]
            self.faults.append(Fault(f"{path}.{keyword}", keyword, reason, True))
        self._require_possible(kept, path)
        return _with_prefix_items(kept)

    def _value(self, keyword: str, value: Any, at: str) -> Any:
        if keyword in (*MAPS, *DEFINITIONS):
            return {name: self.node(node, f"{at}.{name}") for name, node in value.items()}
        if keyword in (*LISTS, *SINGLES):
            if isinstance(value, list):
                return [self.node(node, f"{at}[{n}]") for n, node in enumerate(value)]
            return self.node(value, at)
        if keyword in ("required", "type") and isinstance(value, list):
            return list(dict.fromkeys(value))
        return int(value) if keyword in _COUNTS else value

    def _require_possible(self, schema: dict[str, Any], path: str) -> None:
        """Remove from `required` what `additionalProperties: false` excludes."""
        others = schema.get("additionalProperties", True)
        if others is not False or schema.keys() & {"patternProperties", "allOf", "$ref"}:
            return
        known = schema.get("properties", {})
        required = schema.get("required", ())
        if missing := [name for name in required if name not in known]:
            schema["required"] = [name for name in required if name in known]
        for name in missing:
            reason = f"The schema requires '{name[:80]}', which is none of its 'properties'."
            self.faults.append(Fault(f"{path}.required", "required", reason, True))

    def node(self, node: Node, path: str) -> Node:
        if isinstance(node, dict):
            return self._schema(node, path)
        if isinstance(node, bool):
            return node
        self.faults.append(Fault(path, "", "A schema must be an object or a boolean.", True))
        return True


def _without_flags(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with bounds as numbers: `"minimum": 3, "exclusiveMinimum": true` is what
    draft 4 and OpenAPI 3.0 write for today's `"exclusiveMinimum": 3`."""
    changed = dict(schema)
    for keyword, exclusive in _EXCLUSIVE.items():
        flag = schema.get(exclusive)
        if isinstance(flag, bool) and is_number(schema.get(keyword)):
            del changed[exclusive]
            if flag:
                changed[exclusive] = changed.pop(keyword)
    return changed


def _with_prefix_items(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with `prefixItems` for lists of `items`, the tuples of draft 7 and earlier,
    which Zod and others write."""
    others = schema.pop("additionalItems", None)
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if others is not None:
            schema["items"] = others
    return schema


def _crossed_ranges(schema: dict[str, Any]) -> dict[str, str]:
    """Return the upper bounds that are below the lower ones, each with the reason."""
    above = {
        high: f"The schema's '{low}' is above '{high}'."
        for low, high in _RANGES
        if low in schema and high in schema and schema[low] > schema[high]
    }
    empty = {
        high: f"No number is between the schema's '{low}' and '{high}'."
        for low, high in _OPEN_RANGES
        if low in schema and high in schema and schema[low] >= schema[high]
    }
    return empty | above


def _excluded_values(schema: dict[str, Any]) -> dict[str, str]:
    """Return `type` or `enum` where it excludes every value beside it, with the reason."""
    excluded: dict[str, str] = {}
    if "const" in schema and "enum" in schema and schema["const"] not in schema["enum"]:
        excluded["enum"] = "The schema's 'const' is none of the values of its 'enum'."
    keyword = "const" if "const" in schema else "enum"
    if keyword in schema and "type" in schema:
        values = [schema["const"]] if keyword == "const" else schema["enum"]
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(IS_OF[name](value) for name in types for value in values):
            excluded["type"] = f"No value of the schema's '{keyword}' has its 'type'."
    return excluded
