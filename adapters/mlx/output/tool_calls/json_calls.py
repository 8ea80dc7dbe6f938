"""Parser of calls as JSON objects, `{"name": …, "arguments": {…}}`: one, several, or an array."""

import json
from typing import Any

from adapters.mlx.output.tool_calls.json_scanner import JSONScanner, State, escaped
from adapters.mlx.output.tool_calls.output_pieces import Piece, as_marker, as_shown

_NAME = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_BETWEEN = " \t\r\n[],;"
"""Characters around and between the objects of one span."""


class JSONCalls:
    """Streams arguments as they are written, as soon as the name of the function is known."""

    def __init__(
        self,
        begin: str,
        end: str,
        names: frozenset[str],
        *,
        keys: tuple[str, str] = ("name", "arguments"),
        name_is_key: bool = False,
        lead: str = "",
    ) -> None:
        """`keys`: of the name and of the arguments, beside the usual ones. `name_is_key`: the name
        of the function is itself the key of its arguments. `lead`: text that may stand between
        `begin` and the first object."""
        self._begin = begin
        self._end = end
        self._names = names
        self._name_keys = (*_NAME, keys[0])
        self._arguments_keys = (*_ARGUMENTS, keys[1])
        self._name_is_key = name_is_key
        self._lead = lead
        self._buffer = ""
        self._closing = ""
        self._pieces: list[Piece] = []
        self._stream = ArgumentStream()
        self.called = False
        self._open_object(None)

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        for at, char in enumerate(text):
            is_valid = self._between(char) if self._scanner is None else self._inside(char)
            if not is_valid:
                return self._leave(text[at:])
            if self._end and self._closing == self._end:
                return self._leave(text[at + 1 :])
        return self._take(), None

    def finish(self) -> list[Piece]:
        if self._scanner is not None and self._has_arguments:
            self._end_object()
        text = self._buffer + self._closing
        if self.called:
            self._pieces += [as_marker(text)] if text else []
        elif self._begin + text:
            self._pieces.append(as_shown(self._begin + text))
        return self._take()

    def _open_object(self, scanner: JSONScanner | None) -> None:
        self._scanner = scanner
        self._member = ""
        self._key: str | None = None
        self._name: str | None = None
        self._early_arguments: str | None = None
        self._has_arguments = self._streaming = False

    def _between(self, char: str) -> bool:
        if not self.called and self._lead.startswith(char):
            self._lead = self._lead[1:]
            self._buffer += char
            return True
        if self._closing or (self._end and char == self._end[0]):
            if not self._end.startswith(self._closing + char):
                return False
            self._closing += char
            return True
        if char == "{":
            self._open_object(JSONScanner())
            return self._inside(char)
        # Small models often write one brace too many after their first call.
        if char in _BETWEEN or (char == "}" and self.called):
            self._buffer += char
            return True
        return False

    def _inside(self, char: str) -> bool:
        scanner = self._scanner
        assert scanner is not None  # noqa: S101 - for the type checker: checked by the caller.
        before, depth = scanner.state, scanner.depth
        if not scanner.feed(char):
            # Or one brace too few.
            if not (self._has_arguments and self._end.startswith(char)):
                return False
            self._end_object()
            return self._between(char)
        if self._streaming:
            self._stream.add(char, scanner.state)
            self._streaming = scanner.depth > 1
            self._has_arguments = not self._streaming
            return True
        return self._read_member(scanner, before, depth, char)

    def _read_member(self, scanner: JSONScanner, before: State, depth: int, char: str) -> bool:
        if depth == 1 and before == "value" and not char.isspace():
            self._key = _load(self._member.rstrip()[:-1])
            self._member = ""
            if self._name_is_key and self._key in self._names and self._name is None:
                self._name, self._key = self._key, self._arguments_keys[-1]
            if self._key in self._arguments_keys and self._has_arguments:
                return False
            if self._key in self._arguments_keys and char == "{" and self._name is not None:
                self._begin_call(self._name)
                self._stream.add(char, scanner.state)
                self._streaming, self._key = True, None
                return True
        self._buffer += char
        if depth == 1 and char == "," and before != "string":
            self._member = ""
        elif depth > 0:
            self._member += char
        ended = self._key is not None and scanner.state == "after" and scanner.depth <= 1
        if (ended and not self._end_value()) or (scanner.done and not self._close_object()):
            # `_leave` returns this character as the beginning of the remaining text.
            self._buffer = self._buffer[:-1]
            return False
        return True

    def _end_value(self) -> bool:
        key, self._key = self._key, None
        value: Any = _load(self._member)
        if key in self._name_keys:
            self._name = value if isinstance(value, str) else None
            if self._name not in self._names:
                return False
        elif key in self._arguments_keys:
            # Arguments before the name, as a string, or null for none.
            if isinstance(value, str):
                value = _load(value)
            elif value is None:
                value = dict[str, Any]()
            if not isinstance(value, dict):
                return False
            self._early_arguments = json.dumps(value, ensure_ascii=False)
        self._emit_early_arguments()
        return True

    def _close_object(self) -> bool:
        if self._name is None:
            return False
        if not self._has_arguments:
            self._early_arguments = "{}"
            self._emit_early_arguments()
        self._end_object()
        return True

    def _emit_early_arguments(self) -> None:
        if self._name is not None and self._early_arguments is not None:
            self._begin_call(self._name)
            self._pieces.append(Piece("arguments", "", self._early_arguments))
            self._has_arguments, self._early_arguments = True, None

    def _begin_call(self, name: str) -> None:
        self._flush()
        self._pieces.append(
            Piece("call", ("" if self.called else self._begin) + self._buffer, name)
        )
        self._buffer, self.called = "", True

    def _end_object(self) -> None:
        self._flush()
        self._pieces.append(Piece("end", "", ""))
        self._open_object(None)

    def _leave(self, rest: str) -> tuple[list[Piece], str]:
        text = self._buffer + self._closing
        if not self.called:
            return ([as_shown(self._begin)] if self._begin else []), text + rest
        is_complete = self._scanner is None and self._closing in ("", self._end)
        if is_complete and text:
            self._flush()
            self._pieces.append(as_marker(text))
        return self._take(), rest if is_complete else text + rest

    def _flush(self) -> None:
        self._pieces += self._stream.take()

    def _take(self) -> list[Piece]:
        self._flush()
        pieces, self._pieces = self._pieces, []
        return pieces


class ArgumentStream:
    """Collects the characters of arguments until the next `take`."""

    def __init__(self) -> None:
        self._source = ""
        self._text = ""

    def add(self, char: str, state: State) -> None:
        self._source += char
        self._text += escaped(char) if state == "string" else char

    def take(self) -> list[Piece]:
        pieces = [Piece("arguments", self._source, self._text)] if self._source else []
        self._source = self._text = ""
        return pieces


def _load(text: str) -> Any:
    """Parse JSON, line breaks in strings allowed; None if it is not JSON."""
    try:
        return json.loads(text, strict=False)
    except ValueError:
        return None
