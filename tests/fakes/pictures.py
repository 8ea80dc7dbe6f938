"""Pictures made by hand, small enough to be read: what they promise is more than they hold."""

import base64
import struct
import zlib
from pathlib import Path

_PHOTOS = Path(__file__).parents[1] / "data" / "pictures"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, moves: bool = False) -> bytes:
    """A black picture; of a large one only the head is true."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    frames = _chunk(b"acTL", struct.pack(">II", 2, 0)) if moves else b""
    rows = zlib.compress(bytes((1 + 3 * min(width, 64)) * min(height, 64)))
    return b"\x89PNG\r\n\x1a\n" + head + frames + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def blank(width: int, height: int, white: int = 1) -> bytes:
    """A PNG that is true to its last pixel, all of them white or black."""
    row = b"\0" + bytes([255 * white]) * -(-width // 8)
    chunks = (
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        _chunk(b"IDAT", zlib.compress(row * height)),
        _chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(width: int, height: int) -> bytes:
    app = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0\1\1\0\0\1\0\1\0\0"
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + app + b"\xff" + frame + b"\xff\xd9"


def gif(width: int, height: int, frames: int = 1) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    control = b"\x21\xf9\4\0\0\0\0\0"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x44\1\0"
    return head + (control + frame) * frames + b"\x3b"


def webp(width: int, height: int, kind: bytes = b"VP8X", moves: bool = False) -> bytes:
    bodies = {
        b"VP8X": bytes([2 * moves, 0, 0, 0]) + _three(width - 1) + _three(height - 1),
        b"VP8L": b"\x2f" + struct.pack("<I", (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14),
        b"VP8 ": b"\0\0\0\x9d\1\x2a" + _two(width) + _two(height),
    }
    body = kind + struct.pack("<I", len(bodies[kind])) + bodies[kind]
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _two(number: int) -> bytes:
    return (number & 0xFFFF).to_bytes(2, "little")


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def photo(kind: str) -> bytes:
    """A house, drawn for these tests on 48 x 32 pixels: `png`, `jpg`, `gif` or `webp`."""
    return (_PHOTOS / f"photo.{kind}").read_bytes()
