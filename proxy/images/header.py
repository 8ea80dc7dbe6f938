"""Read format and size of an image from its bytes, without decoding pixels.

A file of a few bytes can declare gigabytes of pixels, so the size is checked before decoding.

Sources: https://www.w3.org/TR/png-3/, https://www.w3.org/Graphics/GIF/spec-gif89a.txt,
https://www.w3.org/Graphics/JPEG/itu-t81.pdf,
https://developers.google.com/speed/webp/docs/riff_container.
"""

import struct
from collections.abc import Callable

from msgspec import Struct

Bytes = bytes | bytearray


class Header(Struct, frozen=True):
    media_type: str
    width: int
    height: int
    """Pixels."""
    animated: bool = False
    """True if the image has several frames."""


def read_header(data: Bytes) -> Header | None:
    """Read the header of a PNG, JPEG, GIF or WebP; `None` for other formats and truncated files.

    The file is scanned to its end, as engines decode a truncated JPEG without an error.
    """
    for matches, read in _FORMATS:
        if matches(data):
            try:
                return read(data)
            except (struct.error, IndexError):
                return None
    return None


_MAX_PARTS = 90_000
"""Limit on blocks, chunks or segments, which a GIF of 20 MB does not exceed. Without it, scanning
parts of a few bytes each would take seconds."""
_PNG_END = b"IEND\xaeB`\x82"


def _png(data: Bytes) -> Header | None:
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IHDR" and at > 8:
            return None  # Decoders take the size of the last one.
        if kind in (b"acTL", b"IDAT"):
            complete = data.find(_PNG_END, at) > 0
            return Header("image/png", width, height, kind == b"acTL") if complete else None
        at += 12 + length
    return None


_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""JPEG markers (SOF) of the segments that contain the size."""


def _jpeg(data: Bytes) -> Header | None:
    at = 2
    for _ in range(_MAX_PARTS):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 5)
            # Search behind the frame: an embedded thumbnail before it has its own end marker.
            complete = data.find(b"\xff\xd9", at) > 0
            return Header("image/jpeg", width, height) if complete else None
        # 0xFF may be repeated before a marker.
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _gif(data: Bytes) -> Header | None:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, frames = 13 + _colour_table_size(flags), 0
    in_blocks = False
    for _ in range(_MAX_PARTS):
        match data[at]:
            case size if in_blocks:  # The length of a data block; the last one has length 0.
                at, in_blocks = at + 1 + size, size > 0
            case 0x2C if frames == 0:
                # Decoders make the screen as large as a frame that exceeds it.
                left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
                width, height = max(width, left + wide), max(height, top + high)
                at, frames, in_blocks = at + 11 + _colour_table_size(data[at + 9]), 1, True
            case 0x2C | 0x3B as kind:
                return Header("image/gif", width, height, animated=kind == 0x2C)
            case _:
                at, in_blocks = at + 2, True
    return None


def _colour_table_size(flags: int) -> int:
    """Return the size of the colour table that `flags` declare, in bytes."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: Bytes) -> Header | None:
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Header("image/webp", width, height, bool(data[20] & 2))
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return Header("image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("image/webp", width & 0x3FFF, height & 0x3FFF)
    return None


_FORMATS: tuple[tuple[Callable[[Bytes], bool], Callable[[Bytes], Header | None]], ...] = (
    (lambda data: data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR", _png),
    (lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda data: data.startswith((b"GIF87a", b"GIF89a")), _gif),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
)
