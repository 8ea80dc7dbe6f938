"""Base64 in the fields of requests, alone or in `data:` URLs."""

import base64
from collections.abc import Iterator

_CHUNK_SIZE = 1 << 18
"""Characters decoded at once; a multiple of four, which encode three bytes."""


def decode_pieces(text: str, begin: int = 0) -> Iterator[bytes]:
    """Decode the base64 from `begin` on, with or without white space in it.

    One call for 20 MB would hold the interpreter's lock and delay every answer.

    Raises:
        ValueError: it is not valid.
    """
    rest = ""
    for at in range(begin, len(text), _CHUNK_SIZE):
        piece = rest + "".join(text[at : at + _CHUNK_SIZE].split())
        complete = len(piece) - len(piece) % 4
        yield base64.b64decode(piece[:complete], validate=True)
        rest = piece[complete:]
    yield base64.b64decode(rest, validate=True)
