"""Calls whose name stands in a header before the JSON of the arguments: Kimi, DeepSeek, Mistral."""

import re

from adapters.mlx.output.tool_calls.json_calls import ArgumentStream
from adapters.mlx.output.tool_calls.json_scanner import JSONScanner
from adapters.mlx.output.tool_calls.output_pieces import Piece, as_marker, as_shown
from adapters.mlx.output.tool_calls.syntax import ToolSyntax

_LONGEST_HEADER = 256
"""Characters; what has gone on for longer than that without arguments is no call."""


class HeaderCalls:
    def __init__(self, syntax: ToolSyntax, names: frozenset[str]) -> None:
        self._syntax = syntax
        self._header = re.compile(syntax.header)
        self._after = syntax.after_arguments.strip()
        self._names = names
        self._held = ""
        self._scanner: JSONScanner | None = None
        self._stream = ArgumentStream()
        self._out: list[Piece] = []
        self.called = False

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        for at, char in enumerate(text):
            follows = self._between(char) if self._scanner is None else self._inside(char)
            end = self._syntax.end
            if not follows or (end and self._scanner is None and self._held.endswith(end)):
                return self._leave(text[at + 1 :] if follows else text[at:])
        return self._given(), None

    def finish(self) -> list[Piece]:
        if not self.called:
            self._held = self._syntax.begin + self._held
        if self._held:
            quiet = self.called and self._is_trailer(self._held)
            self._out.append(as_marker(self._held) if quiet else as_shown(self._held))
        return self._given()

    def _between(self, char: str) -> bool:
        if char == "{":
            found = self._header.fullmatch(self._trimmed())
            return found is not None and found["name"] in self._names and self._begin(found["name"])
        if len(self._held) >= _LONGEST_HEADER:
            return False
        self._held += char
        return True

    def _trimmed(self) -> str:
        """The header without what closed the call before it."""
        held = self._held.lstrip()
        return held.removeprefix(self._after) if self.called and self._after else self._held

    def _begin(self, name: str) -> bool:
        begin = "" if self.called else self._syntax.begin
        self._out.append(Piece("call", begin + self._held, name))
        self._held, self.called = "", True
        self._scanner = JSONScanner()
        return self._inside("{")

    def _inside(self, char: str) -> bool:
        scanner = self._scanner
        if scanner is None or not scanner.feed(char):
            return False
        self._stream.add(char, scanner.state)
        if scanner.done:
            self._out += [*self._stream.take(), Piece("end", "", "")]
            self._scanner = None
        return True

    def _is_trailer(self, text: str) -> bool:
        """Whether `text` is what may follow the arguments, or its beginning."""
        text = text.strip()
        end = self._syntax.end
        return any(
            whole.startswith(text) for whole in (self._after, end, f"{self._after}{end}") if whole
        ) or text in ("", f"{self._after}\n{end}")

    def _leave(self, rest: str) -> tuple[list[Piece], str]:
        held, end = self._held, self._syntax.end
        if not self.called:
            return [as_shown(self._syntax.begin)], held + rest
        if end and held.endswith(end) and self._is_trailer(held):
            return [*self._given(), as_marker(held)], rest
        return self._given(), held + rest

    def _given(self) -> list[Piece]:
        given = [*self._out, *self._stream.take()]
        self._out = []
        return given
