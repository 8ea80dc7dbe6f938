"""The output of a parser: typed pieces that together are the complete text of the model."""

from typing import Literal, NamedTuple, Protocol

Kind = Literal["content", "reasoning", "call", "arguments", "end", "marker"]


class Piece(NamedTuple):
    """A part of the output. A marker has no meaning by itself."""

    kind: Kind
    source: str
    """The model's own text; the sources of all pieces are the output, without gaps."""
    text: str
    """Its meaning: visible text, the name of a function, or JSON."""


class SpanReader(Protocol):
    """Parser of one span of calls, from its opening marker on."""

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        """Parse `text`: its pieces, and the text after the span if it has ended, else None.

        A span without any call returns all of its text, as content or as the text after it.
        """
        ...

    def finish(self) -> list[Piece]:
        """End of the answer: the pieces of the buffered text."""
        ...

    @property
    def called(self) -> bool:
        """True once a call has begun."""
        ...


def as_shown(text: str) -> Piece:
    return Piece("content", text, text)


def as_marker(text: str) -> Piece:
    return Piece("marker", text, "")


def split_marks(text: str, marks: tuple[str, ...], kind: Kind) -> list[Piece]:
    """Split `text` into pieces of `kind` and markers for the control tokens in it."""
    pieces: list[Piece] = []
    while matches := [(at, mark) for mark in marks if (at := text.find(mark)) >= 0]:
        at, mark = min(matches)
        pieces += [Piece(kind, text[:at], text[:at]), as_marker(mark)]
        text = text[at + len(mark) :]
    return [piece for piece in (*pieces, Piece(kind, text, text)) if piece.source]
