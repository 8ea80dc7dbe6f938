"""Validation of answers against JSON schemas."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from adapters.errors import GenerationError, InvalidRequestError
from adapters.ollama.translate.format_patterns import has_format
from adapters.request import Lark, Regex

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


def has_keyword(schema: _Schema, keywords: tuple[str, ...]) -> bool:
    return any(keyword in part for part in _parts(schema) for keyword in keywords)


def is_complete(text: str) -> bool:
    """True for an object or a list in JSON from its first character to its last."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


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
        yield from _all_parts(as_list(part.get(key)))


def _all_parts(schemas: list[Any]) -> Iterator[_Schema]:
    for schema in schemas:
        yield from _parts(schema)


def as_list(value: Any) -> list[Any]:
    """Return a list of a schema; a value of another type is read as an empty one."""
    return cast(list[Any], value) if isinstance(value, list) else []


def _with_prefix_items(schema: Any) -> Any:
    """Return `schema` with `prefixItems` in place of lists of `items`, the tuples of draft 7 and
    earlier, which Zod and others write."""
    if not isinstance(schema, dict):
        return schema
    part = dict(cast(dict[str, Any], schema))
    for key in {*_ALONE, "additionalItems"} & part.keys():
        part[key] = _with_prefix_items(part[key])
    for key in {*_IN_MAPS} & part.keys():
        if isinstance(part[key], dict):
            part[key] = {name: _with_prefix_items(each) for name, each in part[key].items()}
    for key in {*_IN_LISTS, "items"} & part.keys():
        if isinstance(part[key], list):
            part[key] = [_with_prefix_items(each) for each in part[key]]
    if isinstance(part.get("items"), list):
        part["prefixItems"] = part.pop("items")
        part["items"] = part.pop("additionalItems", True)
    return part


def _path_of(error: Any) -> str:
    """Return the place of a fault below its schema, such as `.properties.a.maximum`."""
    steps = cast(list[str | int], list(error.absolute_path))
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


class Promise:
    """Checks texts against a schema.

    `pattern` is left to the grammar: Python's `re` can be made to run for ever, and the whole
    server would wait.
    """

    def __init__(self, schema: _Schema, param: str) -> None:
        """Raises InvalidRequestError: `schema` is not a valid JSON schema."""
        # Here: an idle server does without it.
        from jsonschema import (
            Draft202012Validator,
            FormatChecker,
            SchemaError,
            ValidationError,
            validators,
        )
        from referencing import Registry

        schema = _with_prefix_items(schema)
        try:
            # Without formats: a `pattern` of JavaScript may not be one of Python.
            Draft202012Validator.check_schema(schema, FormatChecker(()))
        except SchemaError as error:
            words = f"The schema is not a valid JSON schema: {error.message[:200]}"
            raise InvalidRequestError(words, param=param + _path_of(error)) from error
        accept = cast(Any, lambda *_: None)  # pyright: ignore[reportUnknownLambdaType]

        def check_format(_: Any, name: Any, value: Any, __: Any) -> Iterator[ValidationError]:
            if isinstance(value, str) and not has_format(value, str(name)):
                yield ValidationError("It has another format.")

        own = {"pattern": accept, "format": check_format}
        kind = cast(Any, validators).extend(Draft202012Validator, own)
        # A registry of its own: the default one would fetch what a $ref names.
        self._validator: Any = kind(schema, registry=cast(Any, Registry)())

    async def check(self, text: str) -> None:
        """Check `text` in a thread, since a schema can be made to take long.

        Raises:
            GenerationError: `text` does not match the schema.
        """
        if not await self.fits(text):
            raise GenerationError("The model's answer is not the JSON that the request demands.")

    async def fits(self, text: str) -> bool:
        """Return what `check` would find."""
        return await asyncio.to_thread(self._matches, text)

    def _matches(self, text: str) -> bool:
        from referencing.exceptions import Unresolvable

        try:
            return self._validator.is_valid(msgspec.json.decode(text))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, Unresolvable):
            return False


class InputPromise:
    """Checks the arguments of a tool of one string, `input`, that has a format."""

    def __init__(self, form: Regex | Lark, param: str) -> None:
        """Raises InvalidRequestError: it is no valid format."""
        from adapters.text_format import TextFormat

        self._format = TextFormat(form, param)

    async def check(self, text: str) -> None:
        """Check the arguments `text` in a thread.

        Raises:
            GenerationError: the string does not match the format.
        """
        if not await self.fits(text):
            raise GenerationError("The model's call does not match the format of the tool's input.")

    async def fits(self, text: str) -> bool:
        """Return whether the string matches the format, by a check in a thread."""
        return await asyncio.to_thread(self._matches, text)

    def _matches(self, text: str) -> bool:
        try:
            arguments = msgspec.json.decode(text, type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeError):
            return False
        return arguments.keys() == {"input"} and self._format.matches(arguments["input"])
