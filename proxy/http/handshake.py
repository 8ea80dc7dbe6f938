"""The head of a request that opens a WebSocket."""

import base64
import binascii
from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""

_VERSION = b"13"
_KEY_BYTES = 16
_MAX_LINE_BYTES = 8_000
"""`websockets` takes 8,192 for a line, and keeps silent about longer ones."""


def is_handshake(method: str, headers: Headers) -> bool:
    """True for a request that opens a WebSocket by RFC 6455; others are answered as plain HTTP."""
    fields = dict(headers)
    return (
        method == "GET"
        and fields.get(b"upgrade", b"").lower() == b"websocket"
        and fields.get(b"sec-websocket-version") == _VERSION
        and _is_key(fields.get(b"sec-websocket-key", b""))
        and all(len(name) + len(value) < _MAX_LINE_BYTES for name, value in headers)
    )


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def to_handshake(target: bytes, headers: Headers) -> bytes:
    """Encode the head again, for a protocol that reads it from its beginning."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, lines)
