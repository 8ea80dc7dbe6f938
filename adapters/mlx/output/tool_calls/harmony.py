"""The Harmony format of gpt-oss: messages in channels, each with a header.

Source: https://cookbook.openai.com/articles/openai-harmony
"""

import re

from adapters.mlx.output.tool_calls.json_calls import ArgumentStream
from adapters.mlx.output.tool_calls.json_scanner import JSONScanner
from adapters.mlx.output.tool_calls.output_pieces import Kind, Piece, as_marker
from adapters.stop_strings import overlap

_MESSAGE = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_OPENINGS = ("<|channel|>", "<|start|>", "<|message|>", "<|constrain|>", " to=", "to=", "assistant")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")


class HarmonyReader:
    """Analysis is reasoning, commentary to a function is a call, all other channels are content."""

    def __init__(self, names: frozenset[str], *, is_answering: bool = False) -> None:
        """`is_answering`: the prompt ends with the header of a final message."""
        self._names = names
        self._buffer = ""
        self._kind: Kind | None = "content" if is_answering else None
        """Kind of the current message; None inside a header."""
        self._scanner: JSONScanner | None = None
        self._stream = ArgumentStream()

    @property
    def in_reasoning(self) -> bool:
        return self._kind == "reasoning"

    def feed(self, text: str) -> list[Piece]:
        self._buffer += text
        pieces: list[Piece] = []
        while True:
            before = self._buffer, self._kind
            pieces += self._read_header() if self._kind is None else self._read_body()
            if before == (self._buffer, self._kind):
                return pieces

    def finish(self) -> list[Piece]:
        text, self._buffer = self._buffer, ""
        if not text:
            return []
        if self._kind is None or self._kind == "arguments":
            return [as_marker(text)]
        return [Piece(self._kind, text, text)]

    def _read_header(self) -> list[Piece]:
        text, at = self._buffer, self._buffer.find(_MESSAGE)
        if text and not any(text.startswith(o) or o.startswith(text) for o in _OPENINGS):
            # Output without channels is recognised by its first character.
            self._kind = "content"
        if self._kind is not None or at < 0:
            return []
        end = at + len(_MESSAGE)
        header, self._buffer = text[:end], text[end:]
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        if recipient is not None and recipient[1] in self._names:
            self._kind, self._scanner = "arguments", JSONScanner()
            return [Piece("call", header, recipient[1])]
        is_analysis = channel is not None and channel[1] == "analysis" and recipient is None
        self._kind = "reasoning" if is_analysis else "content"
        return [as_marker(header)]

    def _read_body(self) -> list[Piece]:
        text = self._buffer
        matches = [(at, end) for end in _ENDS if (at := text.find(end)) >= 0]
        if not matches:
            certain = len(text) - max(overlap(text, end) for end in _ENDS)
            self._buffer = text[certain:]
            return self._as_pieces(text[:certain])
        at, end = min(matches)
        # The opening marker of the next header is left to `_read_header`.
        past = at if end in ("<|start|>", "<|channel|>") else at + len(end)
        body, marker, self._buffer = text[:at], text[at:past], text[past:]
        pieces = [*self._as_pieces(body), *([as_marker(marker)] if marker else [])]
        self._kind, self._scanner = None, None
        return pieces

    def _as_pieces(self, body: str) -> list[Piece]:
        if not body or self._kind is None:
            return []
        if self._scanner is None:
            return [Piece(self._kind, body, body)]
        pieces: list[Piece] = []
        for at, char in enumerate(body):
            outside = not self._scanner.depth
            if self._scanner.done or not self._scanner.feed(char):
                return [*pieces, *self._stream.take(), *self._after_arguments(body[at:])]
            if outside and char != "{":
                pieces.append(as_marker(char))
                continue
            self._stream.add(char, self._scanner.state)
            if self._scanner.done:
                pieces += [*self._stream.take(), Piece("end", "", "")]
        return [*pieces, *self._stream.take()]

    def _after_arguments(self, rest: str) -> list[Piece]:
        """Drop white space after the arguments; any other text is content."""
        if self._scanner is not None and self._scanner.done and not rest.strip():
            return [as_marker(rest)]
        self._scanner, self._kind = None, "content"
        return [Piece("content", rest, rest)]
