"""`context`: a conversation as a list of numbers, which a client sends back with its next prompt.

Ollama's numbers are the tokens of one model. Here they are the messages themselves, packed, so that
a conversation can go on with any model of any engine, and the server keeps nothing.
"""

import zlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from adapters.errors import InvalidRequestError
from adapters.request import Message, Role, TextPart

_MARK = 0x7D3A
"""First number of every list, by which lists of other servers are recognised."""
_MOST_BYTES = 16 * 1024 * 1024


class _Turn(Struct, array_like=True):
    role: Role
    text: str


def to_context(messages: Sequence[Message]) -> list[int]:
    """Pack the texts of `messages`; images and thoughts are left out, as in Ollama."""
    turns = [_Turn(message.role, message.text) for message in messages]
    packed = zlib.compress(msgspec.msgpack.encode(turns))
    length = len(packed)
    padded = packed + b"\0" * (length % 2)
    pairs = zip(padded[::2], padded[1::2], strict=True)
    return [_MARK, length % 2, *(high << 8 | low for high, low in pairs)]


def from_context(numbers: Sequence[int]) -> tuple[Message, ...]:
    """Unpack what `to_context` has packed.

    Raises:
        InvalidRequestError: the numbers are another server's, or were changed.
    """
    try:
        mark, odd, *pairs = numbers
        if mark != _MARK or odd not in (0, 1):
            raise ValueError
        padded = b"".join(pair.to_bytes(2, "big") for pair in pairs)
        unpacked = _decompress(padded[: len(padded) - odd])
        turns = msgspec.msgpack.decode(unpacked, type=list[_Turn])
    except (ValueError, OverflowError, zlib.error, msgspec.MsgspecError) as error:
        raise InvalidRequestError(
            "'context' is not from an answer of this server: send the conversation as the "
            "messages of /api/chat, or begin anew without it.",
            param="context",
        ) from error
    return tuple(Message(role=turn.role, content=(TextPart(turn.text),)) for turn in turns)


def _decompress(packed: bytes) -> bytes:
    reader = zlib.decompressobj()
    data = reader.decompress(packed, _MOST_BYTES)
    if not reader.eof:
        raise ValueError
    return data
