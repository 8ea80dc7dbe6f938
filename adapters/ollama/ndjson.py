"""The lines of a response: bytes become typed lines inside the read of the socket."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import httpx
import msgspec
from msgspec.json import Decoder

from adapters.errors import BackendError, BadUpstreamError
from adapters.ollama.errors import ENDED_EARLY, FOREIGN, from_line, translate
from adapters.ollama.wire import Line, PullLine
from adapters.upstream.transport import Connection

L = TypeVar("L", Line, PullLine)
log = logging.getLogger("tandem")

_MAX_LINE_BYTES = 1_000_000
_DRAIN_SECONDS = 0.2
_MOST_EQUAL_PIECES = 30
"""Equal pieces of text in a row after which Ollama ends an answer without a last line."""
_LAST_LINE = b'{"done":true,"done_reason":"%b","prompt_eval_count":%d,"eval_count":%d}\n'
"""The last line of an answer, where Ollama sent none."""


class LineStream(Generic[L]):
    """The lines of one response, the last of which is `done`.

    After `wait`, `next_lines` returns them in batches, or `push` passes each to a function as it
    arrives.
    """

    def __init__(
        self, connection: Connection, decoder: Decoder[L], seconds: float, max_bytes: int
    ) -> None:
        """`seconds` are allowed from one line to the next."""
        self.last: L | None = None
        """The line that is `done`, once it was read."""
        self.failure: BackendError | None = None
        """The fault of the server, if any; errors of the receiver of the lines are none."""
        self.prompt_estimate = 0
        """Tokens of the prompt, for an answer without a last line, which has the count."""
        self.has_counts = True
        """False where the counts of `last` are estimates: Ollama's last line was not read."""
        self.may_be_lost = False
        """The rest of the answer may be lost to a parser, so what is written of it is kept."""
        self.connection = connection
        self._decode = decoder.decode_lines
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._time = connection.loop.time
        self._received = 0
        self._count = 0
        """Lines so far."""
        self._latest: deque[L] = deque(maxlen=_MOST_EQUAL_PIECES)
        self._rest = bytearray()
        """The beginning of a line that is not complete."""
        self._began = False
        self._pending: Exception | None = None
        """The error of a bad line, to be raised after the good lines before it."""
        self._batch: list[L] = []
        self._take: Callable[[L], object] = self._collect

    async def wait(self, until: float) -> None:
        """Wait for the first line.

        Raises:
            BackendError: by the tables in `errors.py`; there is no line by `until`.
        """
        while not self._batch:
            await self._advance(until)

    async def next_lines(self) -> Sequence[L]:
        """Return the lines that have arrived, at least one; none after the last.

        Raises:
            BackendError: by the tables in `errors.py`; also where they end before the last.
        """
        while self.last is None and not self._batch:
            await self._advance(self._time() + self._seconds)
        batch, self._batch = self._batch, []
        return batch

    async def push(self, take: Callable[[L], object], drain: Callable[[], Awaitable[None]]) -> None:
        """Call `take` with each line, those of `next_lines` that were not returned included.

        Where it returns true, the socket is not read until `drain` has returned.

        Raises:
            BackendError: as `next_lines`.
            Exception: what `take` raised.
        """
        batch, self._batch = self._batch, []
        self._take = take
        behind: object = False
        for line in batch:
            behind = take(line) or behind
        while self.last is None:
            if behind:
                await drain()
            await self._advance(self._time() + self._seconds)
            behind = True

    def cut(self, count: int) -> L:
        """Drop the rest of the answer after `count` lines, and return a last line."""
        self.has_counts = False
        (self.last,) = self._decode(_LAST_LINE % (b"stop", self.prompt_estimate, count))
        return self.last

    async def _advance(self, until: float) -> None:
        """Read until lines are collected, `take` asks for a pause, or the last line is there."""
        try:
            if self._pending is not None:
                raise self._pending
            if not await self.connection.push(self._receive, until):
                self._end_of_body()
        except FOREIGN as error:
            raise self._failed(translate(error, self._began)) from error
        if self.last is not None:
            await self._drain_connection()

    def _end_of_body(self) -> None:
        """Read the rest of the body as a line, or end an answer that repeats itself.

        Raises:
            BadUpstreamError: the body ended before the last line.
        """
        if self._rest:
            self._receive(b"\n")  # The last line may lack its end.
        elif _repeats(self._latest):
            # Ollama ends such an answer on purpose, and leaves out the line with the counts.
            log.info("Ollama ended an answer after %d equal pieces.", _MOST_EQUAL_PIECES)
            self.has_counts = False
            self._receive(_LAST_LINE % (b"length", self.prompt_estimate, self._count))
        else:
            raise self._failed(BadUpstreamError(ENDED_EARLY))

    def _receive(self, piece: bytes) -> bool:
        """Take the lines that `piece` completes; true where reading should pause."""
        self._received += len(piece)
        if (
            self._rest
            or len(piece) > _MAX_LINE_BYTES
            or self._received > self._max_bytes
            or not piece.endswith(b"\n")
        ):
            piece = self._complete_lines(piece)
        try:
            lines = self._decode(piece)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            lines = self._decode_singly(piece)
        pause, take = False, self._take
        self._count += len(lines)
        self._latest.extend(lines)
        for line in lines:
            if line.error is not None:
                self._pending = self._failed(from_line(line.error))
                break
            if take(line):
                pause = True
            if line.done:
                self.last = line
                return True
        if self._pending is not None and not self._batch:
            raise self._pending
        if lines:
            self.connection.until = self._time() + self._seconds
        return pause

    def _collect(self, line: L) -> bool:
        self._began = True
        self._batch.append(line)
        return True

    def _complete_lines(self, piece: bytes) -> bytes:
        """Return the lines that `piece` completes, and keep the beginning of the next."""
        if self._received > self._max_bytes:
            raise self._failed(BadUpstreamError("Ollama's response has no end."))
        first, end = piece.find(b"\n"), piece.rfind(b"\n") + 1
        if len(self._rest) + (first if end else len(piece)) > _MAX_LINE_BYTES:
            raise self._failed(BadUpstreamError("Ollama sent a line of more than a megabyte."))
        if not end:
            self._rest += piece
            return b""
        complete, self._rest = bytes(self._rest) + piece[:end], bytearray(piece[end:])
        return complete

    def _decode_singly(self, data: bytes) -> list[L]:
        """Decode the lines before an invalid one; its error is raised after them."""
        lines: list[L] = []
        for line in data.splitlines():
            try:
                # One bad byte of a token is not worth the whole answer.
                lines += self._decode(line.decode(errors="replace"))
            except msgspec.MsgspecError as error:
                self._pending = error
                break
        return lines

    async def _drain_connection(self) -> None:
        """Read what follows the last line, so that the connection can be used again."""
        until = self._time() + _DRAIN_SECONDS
        try:
            while await self.connection.read(until):
                pass
        except (httpx.HTTPError, TimeoutError):
            return  # The answer is complete: how its connection ends does not matter.

    def _failed(self, error: BackendError) -> BackendError:
        self.failure = error
        return error


def _repeats(lines: deque[L]) -> bool:
    """True for as many lines as Ollama's limit, of one text.

    Source: `tokenRepeat` in Ollama's `llm/server.go`, which compares texts without white space
    around them.
    """
    texts = {_text(line) for line in lines}
    return len(lines) == _MOST_EQUAL_PIECES and len(texts) == 1 and None not in texts


def _text(line: Line | PullLine) -> str | None:
    """Return the text of a line that has nothing else; `None` for any other."""
    if isinstance(line, PullLine):
        return None
    message = line.message
    if message is None:
        text = line.response or line.thinking
    else:
        text = None if message.tool_calls else message.content or message.thinking
    return None if text is None else text.strip()
