"""Messages between the server and the engine's process: frames of MessagePack.

Both ends are this version of this package, on one machine, over a socket pair. Every value has a
type that the receiver knows from the method's name; nothing in a message names code.
"""

import struct
from typing import Any

import msgspec
from msgspec import Raw, Struct

from adapters import errors
from adapters.errors import BackendError, ContextLengthError, GenerationError, InvalidRequestError

HEAD = struct.Struct("!I")
"""Bytes of the message that follows."""
NOTHING = Raw(msgspec.msgpack.encode(None))


class Call(Struct, frozen=True, array_like=True, tag=0):
    """Ask the other end to run a method; `number` is the caller's name for it."""

    number: int
    method: str
    arguments: Raw


class Item(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """One of many results of a call, before its `Result`."""

    number: int
    kind: str
    """Name of the type of `value`."""
    value: Raw


class Result(Struct, frozen=True, array_like=True, tag=2):
    """The end of a call."""

    number: int
    value: Raw = NOTHING


class Failure(Struct, frozen=True, array_like=True, tag=3):
    """The end of a call that raised."""

    number: int
    kind: str
    """Name of a class of `adapters.errors`."""
    message: str
    param: str | None = None
    retry_after: float | None = None
    lasting: bool = False
    prompt_tokens: int | None = None
    limit: int | None = None


class Cancel(Struct, frozen=True, array_like=True, tag=4):
    """Stop a call; it has no further message."""

    number: int


class Notice(Struct, frozen=True, array_like=True, tag=5):
    """A message without an answer."""

    kind: str
    value: Raw


Message = Call | Item | Result | Failure | Cancel | Notice

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def to_raw(value: Any) -> Raw:
    """
    Raises:
        InvalidRequestError: an integer has more than 64 bits, in a schema for example.
    """
    try:
        return Raw(_encoder.encode(value))
    except OverflowError as error:
        raise InvalidRequestError("A number of the request has more than 64 bits.") from error


def to_frame(message: Message) -> bytes:
    body = _encoder.encode(message)
    return HEAD.pack(len(body)) + body


class Frames:
    """Splits received bytes into messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Add bytes; return the messages that are complete by them.

        Raises:
            msgspec.MsgspecError: the other end does not keep to the protocol.
        """
        self._received += data
        messages: list[Message] = []
        start = 0
        while len(self._received) - start >= HEAD.size:
            (length,) = HEAD.unpack_from(self._received, start)
            end = start + HEAD.size + length
            if len(self._received) < end:
                break
            # A copy, because raw parts of the message refer to it.
            messages.append(_decoder.decode(bytes(self._received[start + HEAD.size : end])))
            start = end
        del self._received[:start]
        return messages


def _all_errors(base: type[BackendError]) -> dict[str, type[BackendError]]:
    found = {base.__name__: base}
    for derived in base.__subclasses__():
        if derived.__module__ == errors.__name__:
            found |= _all_errors(derived)
    return found


_ERRORS = _all_errors(BackendError)


def to_failure(number: int, error: Exception) -> Failure:
    """Describe an exception; one that is no `BackendError` is a fault of the engine."""
    if not isinstance(error, BackendError):
        error = GenerationError(f"The MLX engine failed: {type(error).__name__}.")
    kind = next(each.__name__ for each in type(error).__mro__ if each.__name__ in _ERRORS)
    return Failure(
        number,
        kind,
        error.message.encode("utf-8", "replace").decode(),
        error.param,
        error.retry_after,
        error.lasting,
        getattr(error, "prompt_tokens", None),
        getattr(error, "limit", None),
    )


def to_error(failure: Failure) -> BackendError:
    error = _ERRORS[failure.kind](
        failure.message,
        param=failure.param,
        retry_after=failure.retry_after,
        lasting=failure.lasting,
    )
    if isinstance(error, ContextLengthError):
        error.prompt_tokens, error.limit = failure.prompt_tokens, failure.limit
    return error
