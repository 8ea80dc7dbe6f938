"""Text that is generated as a string in JSON, because a grammar of a schema has no other text."""

import json
import re

from msgspec.structs import replace

from adapters.events import Event, TextDelta
from adapters.ollama.translate.response import Emit

_PIECE = re.compile(
    r"""(?:
        [^"\\]+
      | \\ ["\\/bfnrt]
      | \\ u [dD][89abAB][0-9a-fA-F]{2} \\ u [0-9a-fA-F]{4}
      | \\ u (?![dD][89abAB]) [0-9a-fA-F]{4}
    )*""",
    re.VERBOSE,
)
"""The text of a string up to its end, or to an escape that is not complete."""


class QuotedTextReader:
    """Reads the text of one string from the pieces of its JSON."""

    def __init__(self) -> None:
        self.emit: Emit = bool
        """Takes the events; set before the first."""
        self._rest = ""
        self._is_open = False
        self._has_ended = False

    def take(self, event: Event) -> object:
        """Emit `event`, a text without the quotes and escapes of JSON."""
        if not isinstance(event, TextDelta):
            return self.emit(event)
        text = self._read(event.text)
        if not text and not event.logprobs:
            return False
        return self.emit(replace(event, text=text))

    def _read(self, text: str) -> str:
        self._rest += text
        if not self._is_open:
            begun = self._rest.lstrip()
            if not begun:
                return ""
            self._is_open, self._rest = True, begun.removeprefix('"')
        if self._has_ended:
            return ""
        match = _PIECE.match(self._rest)
        piece = match[0] if match else ""
        self._rest = self._rest[len(piece) :]
        self._has_ended = self._rest.startswith('"')
        return str(json.loads(f'"{piece}"', strict=False))
