"""Calls as JSON objects, `{"name": …, "arguments": {…}}`: one, several, or an array of them."""

import json
from typing import Any

from adapters.mlx.output.tool_calls.json_scanner import JSONScanner, State, escaped
from adapters.mlx.output.tool_calls.output_pieces import Piece, as_marker, as_shown

_NAME = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_BETWEEN = " \t\r\n[],;"
"""What stands around and between the objects of one span."""


class JSONCalls:
    """Passes arguments on as they are written, once it is known whose they are."""

    def __init__(self, begin: str, end: str, names: frozenset[str]) -> None:
        self._begin = begin
        self._end = end
        self._names = names
        self._held = ""
        self._closing = ""
        self._out: list[Piece] = []
        self._stream = ArgumentStream()
        self.called = False
        self._open_object(None)

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        for at, char in enumerate(text):
            follows = self._between(char) if self._scanner is None else self._inside(char)
            if not follows:
                return self._leave(text[at:])
            if self._end and self._closing == self._end:
                return self._leave(text[at + 1 :])
        return self._given(), None

    def finish(self) -> list[Piece]:
        if self._scanner is not None and self._has_arguments:
            self._end_object()
        held = self._held + self._closing
        if self.called:
            self._out += [as_marker(held)] if held else []
        elif self._begin + held:
            self._out.append(as_shown(self._begin + held))
        return self._given()

    def _open_object(self, scanner: JSONScanner | None) -> None:
        self._scanner = scanner
        self._member = ""
        self._key: str | None = None
        self._name: str | None = None
        self._kept: str | None = None
        self._has_arguments = self._streaming = False

    def _between(self, char: str) -> bool:
        if self._closing or (self._end and char == self._end[0]):
            if not self._end.startswith(self._closing + char):
                return False
            self._closing += char
            return True
        if char == "{":
            self._open_object(JSONScanner())
            return self._inside(char)
        # A brace too many is what small models write after their first call.
        if char in _BETWEEN or (char == "}" and self.called):
            self._held += char
            return True
        return False

    def _inside(self, char: str) -> bool:
        scanner = self._scanner
        assert scanner is not None  # noqa: S101 - for the type checker: the caller has looked.
        before, depth = scanner.state, scanner.depth
        if not scanner.feed(char):
            # A brace too few is the other thing they do.
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
            if self._key in _ARGUMENTS and self._has_arguments:
                return False
            if self._key in _ARGUMENTS and char == "{" and self._name is not None:
                self._begin_call(self._name)
                self._stream.add(char, scanner.state)
                self._streaming, self._key = True, None
                return True
        self._held += char
        if depth == 1 and char == "," and before != "string":
            self._member = ""
        elif depth > 0:
            self._member += char
        ended = self._key is not None and scanner.state == "after" and scanner.depth <= 1
        if (ended and not self._end_value()) or (scanner.done and not self._close_object()):
            # Not taken: whoever reads on begins with it.
            self._held = self._held[:-1]
            return False
        return True

    def _end_value(self) -> bool:
        key, self._key = self._key, None
        value: Any = _load(self._member)
        if key in _NAME:
            self._name = value if isinstance(value, str) else None
            if self._name not in self._names:
                return False
        elif key in _ARGUMENTS:
            # Before the name, or as a string, or absent but for a null.
            absent: dict[str, Any] = {}
            value = _load(value) if isinstance(value, str) else absent if value is None else value
            if not isinstance(value, dict):
                return False
            self._kept = json.dumps(value, ensure_ascii=False)
        self._give_kept()
        return True

    def _close_object(self) -> bool:
        if self._name is None:
            return False
        if not self._has_arguments:
            self._kept = "{}"
            self._give_kept()
        self._end_object()
        return True

    def _give_kept(self) -> None:
        if self._name is not None and self._kept is not None:
            self._begin_call(self._name)
            self._out.append(Piece("arguments", "", self._kept))
            self._has_arguments, self._kept = True, None

    def _begin_call(self, name: str) -> None:
        self._flush()
        self._out.append(Piece("call", ("" if self.called else self._begin) + self._held, name))
        self._held, self.called = "", True

    def _end_object(self) -> None:
        self._flush()
        self._out.append(Piece("end", "", ""))
        self._open_object(None)

    def _leave(self, rest: str) -> tuple[list[Piece], str]:
        held = self._held + self._closing
        if not self.called:
            return ([as_shown(self._begin)] if self._begin else []), held + rest
        whole = self._scanner is None and self._closing in ("", self._end)
        if whole and held:
            self._flush()
            self._out.append(as_marker(held))
        return self._given(), rest if whole else held + rest

    def _flush(self) -> None:
        self._out += self._stream.take()

    def _given(self) -> list[Piece]:
        self._flush()
        given, self._out = self._out, []
        return given


class ArgumentStream:
    """Gathers the arguments of one call between two hand-overs."""

    def __init__(self) -> None:
        self._source = ""
        self._text = ""

    def add(self, char: str, state: State) -> None:
        self._source += char
        self._text += escaped(char) if state == "string" else char

    def take(self) -> list[Piece]:
        taken = [Piece("arguments", self._source, self._text)] if self._source else []
        self._source = self._text = ""
        return taken


def _load(text: str) -> Any:
    """None where it is no JSON; line breaks inside strings are let pass."""
    try:
        return json.loads(text, strict=False)
    except ValueError:
        return None
