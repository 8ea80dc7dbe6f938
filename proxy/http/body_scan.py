"""Count what a JSON body holds, as its bytes arrive, before anything of it is built.

A decoder holds the interpreter's lock from the first byte to the last, on whichever thread it runs,
and builds a hundred bytes for each byte of `[],[],[]`. So the limits are on what it would build.
"""

import codecs
import re
from itertools import accumulate

from adapters.errors import InvalidRequestError

PIECE = 65_536
"""Bytes that are scanned at once: below a millisecond, whatever they are."""
_MAX_CONTAINERS = 50_000
"""Lists and objects: ten for each of 4,096 messages, and 20 ms of decoding."""
_MAX_KEYS = 100_000
_MAX_VALUES = 300_000
"""Values of all kinds. OpenAI takes as many tokens in one request for embeddings."""
_MAX_STRINGS = _MAX_VALUES + _MAX_KEYS
_MAX_NOT_ASCII = 12_000_000
"""Bytes of letters that are not ASCII: four million of them, and no model reads as many."""
_MAX_ESCAPES = 2_000_000
"""Backslashes: Python's `json` writes each letter that is not ASCII with one."""

NOT_JSON = "The body is not valid JSON in UTF-8."
_TO_PARENTHESES = bytes.maketrans(b"[]{}", b"()()")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ASCII = bytes(range(128))
_STEPS = {ord("("): 1, ord(")"): -1}
_TOKEN = re.compile(rb'"((?:[^"\\]++|\\.)*+)"?|([\[{])|([\]}])|(:)', re.DOTALL)
_decode_utf8 = codecs.getincrementaldecoder("utf-8")


class BodyLimitError(Exception):
    """A body exceeds a limit; `BodyScan.to_error` finds the field in which it does."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Place:
    """The state before a piece, from which its keys can be read again."""

    def __init__(self, piece: int, in_string: bool, depth: int) -> None:
        self.piece, self.in_string, self.depth = piece, in_string, depth


class BodyScan:
    """Takes the pieces of a body in order; `end` returns all of it."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._pieces: list[bytes] = []
        self._utf8 = _decode_utf8()
        self._escape = b""
        """A backslash at the end of the last piece."""
        self._in_string = False
        self._depth = 0
        self._containers = self._keys = self._values = self._escapes = 0
        self._quotes = self._not_ascii = 0
        self._now = self._before = self._top = _Place(0, in_string=False, depth=0)
        """The start of this piece, of the one before, and of the one before the last piece with a
        key of the body."""

    def feed(self, data: bytes) -> None:
        """Scan the next `PIECE` bytes at most.

        Raises:
            BodyLimitError: too deep, or too many values.
            InvalidRequestError: it is not JSON in UTF-8.
        """
        self._before = self._now
        self._now = _Place(len(self._pieces), self._in_string, self._depth)
        self._pieces.append(data)
        self._check_utf8(data, final=False)
        if not data.isascii():
            self._not_ascii += len(data.translate(None, _ASCII))
        outside = self._outside_strings(data)
        self._count(outside)
        if self._descend(outside.translate(_TO_PARENTHESES, _NO_BRACKETS)) <= 1:
            self._top = self._before

    def end(self) -> bytes:
        """Return the whole body.

        Raises:
            InvalidRequestError: its last letter is cut off.
        """
        self._check_utf8(b"", final=True)
        return b"".join(self._pieces)

    def _check_utf8(self, data: bytes, *, final: bool) -> None:
        try:
            self._utf8.decode(data, final)
        except UnicodeDecodeError as exc:
            raise InvalidRequestError(NOT_JSON) from exc

    def _outside_strings(self, data: bytes) -> bytes:
        """Return what is not in a string; its quotes are left out as well."""
        text = self._escape + data
        if b"\\" in text:
            self._escapes += text.count(b"\\")
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        self._escape = b"\\" if text.endswith(b"\\") else b""
        parts = text.split(b'"')
        self._quotes += len(parts) - 1
        outside = parts[self._in_string :: 2]
        self._in_string ^= len(parts) % 2 == 0
        return b"".join(outside)

    def _count(self, outside: bytes) -> None:
        self._containers += outside.count(b"[") + outside.count(b"{")
        self._keys += outside.count(b":")
        self._values += outside.count(b",")
        for count, limit, what in (
            (self._containers, _MAX_CONTAINERS, "lists and objects"),
            (self._keys, _MAX_KEYS, "keys"),
            (self._containers + self._values, _MAX_VALUES, "values"),
            (self._quotes // 2, _MAX_STRINGS, "strings"),
            (self._escapes, _MAX_ESCAPES, "escapes in strings"),
            (self._not_ascii, _MAX_NOT_ASCII, "bytes of letters that are not ASCII"),
        ):
            if count > limit:
                raise BodyLimitError(f"has more than {limit} {what}. Send fewer in one request.")

    def _descend(self, brackets: bytes) -> int:
        """Follow `brackets` down and up; returns the least depth."""
        if not brackets:
            return self._depth
        depths = list(accumulate(map(_STEPS.__getitem__, brackets), initial=self._depth))
        if max(depths) > self._max_depth:
            raise BodyLimitError(f"nests deeper than {self._max_depth} levels.")
        if min(depths) < 0:
            raise InvalidRequestError(NOT_JSON)
        self._depth = depths[-1]
        return min(depths)

    def to_error(self, exceeded: BodyLimitError) -> InvalidRequestError:
        """Return the error for the client; `param` is the field in which the limit is exceeded.

        The search is Python's own work on two pieces of the body, which takes up to 70 ms.
        """
        name = self._open_field()
        where = f" (at '{name}')" if name else ""
        return InvalidRequestError(f"The body{where} {exceeded.reason}", param=name)

    def _open_field(self) -> str | None:
        """Find the field of the body with the last value that is not of the body itself."""
        top = self._top.piece
        key = self._last_key(self._top, b"".join(self._pieces[top : top + 2]), b"")
        if self._now.depth <= 1:
            key = self._last_key(self._now, self._pieces[-1], key)
        name = key.decode(errors="replace")[:100]
        return name if name and name.isprintable() else None

    def _last_key(self, place: _Place, text: bytes, key: bytes) -> bytes:
        """Return the last key of the body with values below it, or `key`, which is open before."""
        depth, string, latest = place.depth, b"", key
        for token in _TOKEN.finditer((b'"' if place.in_string else b"") + text):
            words, opens, closes, colon = token.groups()
            depth += (opens is not None) - (closes is not None)
            if depth == 1 and words is not None:
                string = words
            elif depth == 1 and colon:
                latest = string
            elif depth > 1:
                key = latest
            if depth > self._max_depth:
                break
        return key
