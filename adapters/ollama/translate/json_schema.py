"""Validation of answers against JSON schemas."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from adapters.errors import GenerationError
from adapters.json_schema.reading import read_schema
from adapters.ollama.translate.format_patterns import has_format
from adapters.request import Lark, Regex

_Schema = Mapping[str, Any]


def is_complete(text: str) -> bool:
    """True for an object or a list in JSON from its first character to its last."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


class Promise:
    """Checks texts against a schema.

    `pattern` is left to the grammar: Python's `re` can be made to run for ever, and the whole
    server would wait.
    """

    def __init__(self, schema: _Schema, param: str) -> None:
        """Raises InvalidRequestError: `schema` is wrong, or has a keyword that is not enforced."""
        # Here: an idle server does without it.
        from jsonschema import (
            Draft202012Validator,
            ValidationError,
            validators,
        )
        from referencing import Registry

        kept, faults = read_schema(schema)
        if faults:
            raise faults[0].to_error(param)
        accept = cast(Any, lambda *_: None)  # pyright: ignore[reportUnknownLambdaType]

        def check_format(_: Any, name: Any, value: Any, __: Any) -> Iterator[ValidationError]:
            if isinstance(value, str) and not has_format(value, str(name)):
                yield ValidationError("It has another format.")

        own = {"pattern": accept, "format": check_format}
        kind = cast(Any, validators).extend(Draft202012Validator, own)
        # A registry of its own: the default one would fetch what a $ref names.
        self._validator: Any = kind(kept, registry=cast(Any, Registry)())

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
