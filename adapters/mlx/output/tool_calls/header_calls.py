"""Parser of calls with the name in a header before the JSON arguments: Kimi, DeepSeek, Mistral."""

import re

from adapters.mlx.output.tool_calls.json_calls import ArgumentStream
from adapters.mlx.output.tool_calls.json_scanner import JSONScanner
from adapters.mlx.output.tool_calls.output_pieces import Piece, as_marker, as_shown
from adapters.mlx.output.tool_calls.syntax import ToolSyntax

_LONGEST_HEADER = 256
"""Characters; a longer text without arguments is not a call."""


class HeaderCalls:
    def __init__(self, syntax: ToolSyntax, names: frozenset[str]) -> None:
        self._syntax = syntax
        self._header = re.compile(syntax.header)
        self._after = syntax.after_arguments.strip()
        self._names = names
        self._buffer = ""
        self._scanner: JSONScanner | None = None
        self._stream = ArgumentStream()
        self._pieces: list[Piece] = []
        self.called = False

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        for at, char in enumerate(text):
            is_valid = self._between(char) if self._scanner is None else self._inside(char)
            end = self._syntax.end
            if not is_valid or (end and self._scanner is None and self._buffer.endswith(end)):
                return self._leave(text[at + 1 :] if is_valid else text[at:])
        return self._take(), None

    def finish(self) -> list[Piece]:
        if not self.called:
            self._buffer = self._syntax.begin + self._buffer
        if self._buffer:
            is_hidden = self.called and self._is_trailer(self._buffer)
            make = as_marker if is_hidden else as_shown
            self._pieces.append(make(self._buffer))
        return self._take()

    def _between(self, char: str) -> bool:
        if char == "{":
            return self._begin()
        if len(self._buffer) >= _LONGEST_HEADER:
            return False
        self._buffer += char
        return True

    def _begin(self) -> bool:
        """Begin a call if the buffer is the header of one."""
        header = self._buffer
        if self.called and self._after:
            header = header.lstrip().removeprefix(self._after)
        match = self._header.fullmatch(header)
        if match is None or match["name"] not in self._names:
            return False
        begin = "" if self.called else self._syntax.begin
        self._pieces.append(Piece("call", begin + self._buffer, match["name"]))
        self._buffer, self.called = "", True
        self._scanner = JSONScanner()
        return self._inside("{")

    def _inside(self, char: str) -> bool:
        scanner = self._scanner
        if scanner is None or not scanner.feed(char):
            return False
        self._stream.add(char, scanner.state)
        if scanner.done:
            self._pieces += [*self._stream.take(), Piece("end", "", "")]
            self._scanner = None
        return True

    def _is_trailer(self, text: str) -> bool:
        """True if `text` may follow the arguments, or is the beginning of such a text."""
        text = text.strip()
        end = self._syntax.end
        trailers = (self._after, end, f"{self._after}{end}")
        is_beginning = any(trailer.startswith(text) for trailer in trailers if trailer)
        return is_beginning or text in ("", f"{self._after}\n{end}")

    def _leave(self, rest: str) -> tuple[list[Piece], str]:
        text, end = self._buffer, self._syntax.end
        if not self.called:
            return [as_shown(self._syntax.begin)], text + rest
        if end and text.endswith(end) and self._is_trailer(text):
            return [*self._take(), as_marker(text)], rest
        return self._take(), text + rest

    def _take(self) -> list[Piece]:
        pieces = [*self._pieces, *self._stream.take()]
        self._pieces = []
        return pieces
