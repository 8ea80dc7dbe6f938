"""Base64 in the fields of requests, alone or in `data:` URLs."""

import base64
from collections.abc import Iterator

_CHUNK_SIZE = 1 << 18
"""Characters that are read at once; a multiple of four, which encode three bytes."""


def decode_pieces(text: str, begin: int = 0) -> Iterator[bytes]:
    """Decode the base64 from `begin` on, with or without white space in it.

    One call for 20 MB would hold the interpreter's lock and delay every answer.

    Raises:
        ValueError: it is not valid.
    """
    rest = ""
    for compact in compact_pieces(text, begin):
        piece = rest + compact
        complete = len(piece) - len(piece) % 4
        yield base64.b64decode(piece[:complete], validate=True)
        rest = piece[complete:]
    yield base64.b64decode(rest, validate=True)


def compact_pieces(text: str, begin: int = 0) -> Iterator[str]:
    """Return `text` from `begin` on without white space, in pieces."""
    for at in range(begin, len(text), _CHUNK_SIZE):
        yield "".join(text[at : at + _CHUNK_SIZE].split())
