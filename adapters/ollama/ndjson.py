"""Bytes of a body -> typed lines, as many at a time as one read has brought."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import httpx
import msgspec
from msgspec.json import Decoder

from adapters.errors import BackendError, BadUpstreamError
from adapters.ollama.errors import FOREIGN, from_line, translate
from adapters.ollama.wire import Line, PullLine
from adapters.upstream.transport import Connection

L = TypeVar("L", Line, PullLine)

MOST_LINE_BYTES = 1_000_000
MOST_BYTES = 256_000_000
"""Of one answer: nearly a million tokens. Whoever says more has lost its end."""
_DRAINING_SECONDS = 0.2


class LineReader(Generic[L]):
    def __init__(self, connection: Connection, decoder: Decoder[L]) -> None:
        self.loop = connection.loop
        self._connection = connection
        self._decoder = decoder
        self._rest = bytearray()
        self._taken = 0
        """Bytes of the body."""
        self._until = 0.0
        self._failure: Exception | None = None

    async def read(self, until: float) -> Sequence[L]:
        """At least one line, or nothing at the end of the body; none after one that is `done`.

        Raises:
            BackendError: what a line with `error` means, or it is longer than `MOST_LINE_BYTES`,
                or all of them are than `MOST_BYTES`.
            msgspec.MsgspecError: a line is not what it should be.
            TimeoutError: no line was complete by `until`.
        """
        if self._failure is not None:
            raise self._failure
        self._until = until
        while piece := await self._connection.read(self._until):
            self._taken += len(piece)
            if self._taken > MOST_BYTES:
                raise BadUpstreamError("Ollama's answer has no end.")
            if lines := self._decoded(self._whole(piece)):
                return lines
        rest, self._rest = bytes(self._rest), bytearray()
        return self._decoded(rest)

    def divert(self, take: Callable[[L], bool], seconds: float) -> None:
        """`take` has each line that comes alone while `read` waits, and `seconds` are then left
        until the next; what it does not take is read."""
        decode, time, connection = self._decoder.decode_lines, self.loop.time, self._connection

        def take_piece(piece: bytes) -> bool:
            if self._rest or self._taken > MOST_BYTES or not piece.endswith(b"\n"):
                return False
            try:
                lines = decode(piece)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return False  # It is for `read` to say what is wrong with it.
            if len(lines) != 1 or not take(lines[0]):
                return False
            self._taken += len(piece)
            self._until = connection.until = time() + seconds
            return True

        connection.taker = take_piece

    async def drain(self) -> None:
        """Read what follows the last line, so that the connection can be used again."""
        until = self.loop.time() + _DRAINING_SECONDS
        try:
            while await self._connection.read(until):
                pass
        except (httpx.HTTPError, TimeoutError):
            return  # The answer is complete: how its connection ends is no matter.

    def _whole(self, piece: bytes) -> bytes:
        """The lines that `piece` completes; the beginning of the next is kept."""
        if not self._rest and piece.endswith(b"\n") and len(piece) <= MOST_LINE_BYTES:
            return piece  # As nearly all come.
        first, end = piece.find(b"\n"), piece.rfind(b"\n") + 1
        if len(self._rest) + (first if end else len(piece)) > MOST_LINE_BYTES:
            raise BadUpstreamError("Ollama sent a line of more than a megabyte.")
        if not end:
            self._rest += piece
            return b""
        whole, self._rest = bytes(self._rest) + piece[:end], bytearray(piece[end:])
        return whole

    def _decoded(self, data: bytes) -> Sequence[L]:
        try:
            lines = self._decoder.decode_lines(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._one_by_one(data)
        return self._until_the_end(lines)

    def _one_by_one(self, data: bytes) -> Sequence[L]:
        """What comes before a bad line is good: the failure is for the next read."""
        lines: list[L] = []
        for line in data.splitlines():
            try:
                # One bad byte of a token is not worth the whole answer.
                lines += self._decoder.decode_lines(line.decode(errors="replace"))
            except msgspec.MsgspecError as failure:
                return self._but(lines, failure)
        return self._until_the_end(lines)

    def _until_the_end(self, lines: list[L]) -> Sequence[L]:
        for at, line in enumerate(lines):
            if line.error is not None:
                return self._but(lines[:at], from_line(line.error))
            if line.done:
                return lines[: at + 1]
        return lines

    def _but(self, lines: list[L], failure: Exception) -> Sequence[L]:
        """`lines`, and `failure` after them.

        Raises:
            Exception: there are none, so it is `failure`'s turn.
        """
        if not lines:
            raise failure
        self._failure = failure
        return self._until_the_end(lines)


class Lines(Generic[L]):
    """The lines of one answer, the last of which has `done`. Whoever gets them closes them."""

    def __init__(self, reader: LineReader[L], seconds: float) -> None:
        """`seconds` are from one line to the next."""
        self._loop = reader.loop
        self._reader = reader
        self._seconds = seconds
        self._first: Sequence[L] = ()
        self._began = False
        self.last: L | None = None
        """The one that has `done`, once it was read."""
        self.failure: BackendError | None = None
        self.at_end: list[Callable[[], None]] = []
        """Called once it is closed, the last of them first."""

    async def begin(self, until: float) -> None:
        """Wait for the first.

        Raises:
            BackendError: there is none by `until`; otherwise as the iteration.
        """
        self._first = await self._next(until)

    @property
    def first(self) -> L:
        """Until it was iterated over."""
        return self._first[0]

    def divert(self, take: Callable[[L], bool]) -> None:
        """As `LineReader.divert`, until the end."""
        self._reader.divert(take, self._seconds)

    def __aiter__(self) -> "Lines[L]":
        return self

    def __anext__(self) -> Awaitable[Sequence[L]]:
        """As many as have arrived.

        Raises:
            BackendError: by the tables in `errors.py`; also where they end before `done`.
        """
        return self._next(self._loop.time() + self._seconds)

    async def _next(self, until: float) -> Sequence[L]:
        if self._first:
            batch, self._first = self._first, ()
            return batch
        if self.last is not None:
            raise StopAsyncIteration
        try:
            batch = await self._reader.read(until)
        except FOREIGN as error:
            raise self._failed(translate(error, self._began)) from error
        except BackendError as error:
            self.failure = error
            raise
        if not batch:
            raise self._failed(BadUpstreamError("Ollama's answer ended before it was done."))
        self._began = True
        if batch[-1].done:
            self.last = batch[-1]
            await self._reader.drain()
        return batch

    def _failed(self, error: BackendError) -> BackendError:
        self.failure = error
        return error

    def close(self) -> None:
        while self.at_end:
            self.at_end.pop()()
