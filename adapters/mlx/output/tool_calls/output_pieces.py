"""What a reader makes of a model's text: pieces that together are the whole of it."""

from typing import Literal, NamedTuple, Protocol

Kind = Literal["content", "reasoning", "call", "arguments", "end", "marker"]


class Piece(NamedTuple):
    """`source` is the text as the model wrote it, in order and without gaps; `text` is what it
    means: what is shown, a function's name, or JSON. A marker means nothing by itself."""

    kind: Kind
    source: str
    text: str


class SpanReader(Protocol):
    """Reads one span of calls, from its opening marker on."""

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        """The pieces of `text`, and what follows the span once it is over, else None.

        A span without a single call gives back all of its text, as content or to be read on.
        """
        ...

    def finish(self) -> list[Piece]:
        """The answer is over: what is still held."""
        ...

    @property
    def called(self) -> bool:
        """Whether a call has begun."""
        ...


def as_shown(text: str) -> Piece:
    return Piece("content", text, text)


def as_marker(text: str) -> Piece:
    return Piece("marker", text, "")


def overlap(text: str, word: str) -> int:
    """How many characters at the end of `text` are the beginning of `word`."""
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(word[:n])), 0)


def split_marks(text: str, marks: tuple[str, ...], kind: Kind) -> list[Piece]:
    """`text` as pieces of `kind`, with the control tokens in it made markers."""
    pieces: list[Piece] = []
    while found := [(at, mark) for mark in marks if (at := text.find(mark)) >= 0]:
        at, mark = min(found)
        pieces += [Piece(kind, text[:at], text[:at]), as_marker(mark)]
        text = text[at + len(mark) :]
    return [piece for piece in (*pieces, Piece(kind, text, text)) if piece.source]
