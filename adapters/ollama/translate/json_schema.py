"""JSON schemas that Ollama can enforce, and validation of answers.

Its runner is llama.cpp, which turns a schema into a grammar and silently ignores what it cannot
express. Source: `common/json-schema-to-grammar.cpp`, and the answers of a 0.33.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import msgspec

from adapters.errors import GenerationError, InvalidRequestError, UnsupportedParameterError

_Schema = Mapping[str, Any]

_IN_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_IN_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE = (
    "items",
    "additionalProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)

_IGNORED = frozenset(
    {
        "allOf",  # Merged where its parts are objects, and only their properties.
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "maxProperties",
        "minContains",
        "minProperties",
        "multipleOf",
        "not",
        "patternProperties",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    }
)
_ANNOTATIONS = frozenset(
    {
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "default",
        "definitions",
        "deprecated",
        "description",
        "discriminator",
        "examples",
        "readOnly",
        "title",
        "type",
        "writeOnly",
    }
)
_EXCLUSIVE = ("$ref", "anyOf", "oneOf")
"""Beside one of these, other keywords are ignored."""
_FORMATS = re.compile(r"date|time|date-time|uuid[1-5]?")
_UNREAD_IN_PATTERN = re.compile(r"\(\?|\\[bB1-9kpP]")

_BOUNDS = (
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minimum", "maximum"),
)


def refuse_impossible(schema: _Schema, param: str) -> None:
    """Refuse a schema that crashes the runner, or that it reads as "anything".

    Raises:
        InvalidRequestError: a lower bound above the upper one, or a `$ref` to another document.
    """
    for part in _parts(schema):
        for low, high in _BOUNDS:
            if _is_above(part.get(low), part.get(high)):
                raise InvalidRequestError(f"The schema's '{low}' is above '{high}'.", param=param)
        if not str(part.get("$ref", "#")).startswith("#"):
            raise InvalidRequestError(
                "A $ref must point into the schema itself, as '#/$defs/NAME' does.", param=param
            )


def refuse_unenforceable(schema: _Schema, param: str) -> None:
    """Refuse a strict schema with a keyword that the grammar would not enforce.

    Raises:
        UnsupportedParameterError: the message names the keyword.
    """
    for part in _parts(schema):
        for keyword in _unenforced(part):
            raise UnsupportedParameterError(
                f"Ollama cannot enforce the schema's '{keyword}', as 'strict' demands.",
                param=param,
            )


def has_keyword(schema: _Schema, keywords: tuple[str, ...]) -> bool:
    return any(keyword in part for part in _parts(schema) for keyword in keywords)


def _parts(schema: Any) -> Iterator[_Schema]:
    """Yield `schema` and every schema in it."""
    if not isinstance(schema, dict):
        return
    part = cast(dict[str, Any], schema)
    yield part
    for key in _ALONE:
        yield from _parts(part.get(key))
    for key in _IN_MAPS:
        schemas = part.get(key)
        if isinstance(schemas, dict):
            yield from _all_parts(list(cast(dict[str, Any], schemas).values()))
    for key in (*_IN_LISTS, "items"):
        yield from _all_parts(_items(part.get(key)))


def _all_parts(schemas: list[Any]) -> Iterator[_Schema]:
    for schema in schemas:
        yield from _parts(schema)


def _items(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def _unenforced(part: _Schema) -> Iterator[str]:
    yield from sorted(_IGNORED & part.keys())
    if any(key in part for key in _EXCLUSIVE):
        yield from sorted(part.keys() - _ANNOTATIONS - set(_EXCLUSIVE))
    for keyword, is_enforced in _CONDITIONS.items():
        if keyword in part and not is_enforced(part):
            yield keyword


def _types(part: _Schema) -> set[str]:
    types = part.get("type")
    return {str(name) for name in (_items(types) or ([types] if types else []))}


def _is_of_integers(part: _Schema) -> bool:
    return "integer" in _types(part) and "number" not in _types(part)


def _is_plain_string(part: _Schema) -> bool:
    return "string" in _types(part) and not {"pattern", "format"} & part.keys()


def _has_items(part: _Schema) -> bool:
    return isinstance(part.get("items"), dict) and "prefixItems" not in part


def _is_declared(part: _Schema) -> bool:
    properties = part.get("properties")
    return isinstance(properties, dict) and properties.keys() >= set(_items(part["required"]))


_CONDITIONS: Mapping[str, Callable[[_Schema], bool]] = {
    "minimum": lambda p: _is_of_integers(p) and "exclusiveMinimum" not in p,
    "maximum": lambda p: _is_of_integers(p) and "exclusiveMaximum" not in p,
    "exclusiveMinimum": _is_of_integers,
    "exclusiveMaximum": _is_of_integers,
    "minLength": _is_plain_string,
    "maxLength": _is_plain_string,
    "minItems": _has_items,
    "maxItems": _has_items,
    "format": lambda p: bool(_FORMATS.fullmatch(str(p["format"]))) and "pattern" not in p,
    "pattern": lambda p: not _UNREAD_IN_PATTERN.search(str(p["pattern"])),
    "required": _is_declared,
}
"""Keyword -> condition under which the grammar enforces it."""


def _is_above(low: Any, high: Any) -> bool:
    return isinstance(low, (int, float)) and isinstance(high, (int, float)) and low > high


class Promise:
    """Checks texts against a schema.

    `pattern` is left to the grammar: Python's `re` can be made to run for ever, and the whole
    server would wait.
    """

    def __init__(self, schema: _Schema, param: str) -> None:
        """Raises InvalidRequestError: `schema` is not a valid JSON schema."""
        # Here: an idle server does without it.
        from jsonschema import Draft202012Validator, SchemaError, validators
        from referencing import Registry

        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            words = f"The schema is not a valid JSON schema: {error.message[:200]}"
            raise InvalidRequestError(words, param=param) from error
        accept = cast(Any, lambda *_: None)  # pyright: ignore[reportUnknownLambdaType]
        kind = cast(Any, validators).extend(Draft202012Validator, {"pattern": accept})
        # A registry of its own: the default one would fetch what a $ref names.
        self._validator: Any = kind(schema, registry=cast(Any, Registry)())

    async def check(self, text: str) -> None:
        """Check `text` in a thread, since a schema can be made to take long.

        Raises:
            GenerationError: `text` does not match the schema.
        """
        if not await asyncio.to_thread(self._matches, text):
            raise GenerationError("The model's answer is not the JSON that the request demands.")

    def _matches(self, text: str) -> bool:
        from referencing.exceptions import Unresolvable

        try:
            return self._validator.is_valid(msgspec.json.decode(text))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, Unresolvable):
            return False
