"""Options under Ollama's own names, checked before they are sent.

Ollama itself ignores an unknown option, and answers a wrong type with a 500.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from adapters.errors import InvalidRequestError
from adapters.ollama.wire import Options

_MOST_SECONDS = 1e9
"""Ollama counts nanoseconds in 64 bits: anything longer is for ever."""


def to_options(options: Options, own: Mapping[str, Any]) -> Options:
    """Merge `own`, options by Ollama's names, into `options`, which other fields have set.

    Raises:
        InvalidRequestError: an unknown option, an invalid value, or a value that conflicts with
            another field; `param` is `options.NAME`.
    """
    named = {name: value for name, value in own.items() if value is not None}
    read = _read(named)
    for name in named:
        value, other = getattr(read, name), getattr(options, name)
        if other is not UNSET and other != value:
            raise InvalidRequestError(
                f"'options.{name}' is {value}, which conflicts with {other} in another field.",
                param=f"options.{name}",
            )
        setattr(options, name, value)
    return options


def to_keep_alive(seconds: float) -> float:
    """Return `seconds` as Ollama reads a number: seconds, or -1 for ever.

    Raises:
        InvalidRequestError: it is not a number.
    """
    if seconds != seconds:
        raise InvalidRequestError("keep_alive is not a number.", param="keep_alive")
    return seconds if 0 <= seconds < _MOST_SECONDS else -1


def _read(own: Mapping[str, Any]) -> Options:
    for name in own:
        if name not in Options.__struct_fields__:
            raise InvalidRequestError(
                f"Ollama has no option '{name}'.", param=f"options.{name}"[:100]
            )
    try:
        return msgspec.convert(own, Options)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        name = re.split(r"[`\[]", path)[0]
        raise InvalidRequestError(
            f"The option '{name}': {what}.", param=f"options.{name}"
        ) from None
