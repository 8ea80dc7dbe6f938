"""Ollama's own options: what a request says in Ollama's names, checked before it is sent.

Ollama itself takes an unknown option in silence, and answers a wrong type with a 500.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from adapters.errors import InvalidRequestError
from adapters.ollama.wire import Options

_MOST_SECONDS = 1e9
"""Ollama counts nanoseconds in 64 bits: what is longer stays for ever."""


def to_options(asked: Options, own: Mapping[str, Any]) -> Options:
    """`asked` in OpenAI's words, together with `own` in Ollama's.

    Raises:
        InvalidRequestError: no such option, a value it cannot have, or two values for one;
            `param` is `options.NAME`.
    """
    given = {name: value for name, value in own.items() if value is not None}
    read = _read(given)
    for name in given:
        value, other = getattr(read, name), getattr(asked, name)
        if other is not UNSET and other != value:
            raise InvalidRequestError(
                f"'{name}' is given twice: {other} and {value}.", param=f"options.{name}"
            )
        setattr(asked, name, value)
    return asked


def to_keep_alive(seconds: float) -> float:
    """As Ollama reads a number: seconds, or -1 for ever.

    Raises:
        InvalidRequestError: it is no number of seconds.
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
