"""Buffer between the task that writes an answer and the task that sends its response.

Pieces that arrive together are sent together: an ASGI message for each token would cost more than
the token. With a `Wire`, a token takes no turn of the response's task either.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

WIRE = "tandem.wire"
"""The ASGI extension that is a `Wire`."""
_MAX_BYTES = 65_536
"""Buffered bytes above which the answer has to wait for the client."""
_BURST_SECONDS = 0.002
"""A piece after a longer silence does not belong to a burst, and is sent at once."""


class Wire(Protocol):
    """Writes to the client directly, past ASGI's `send`."""

    def write(self, data: bytes) -> bool:
        """Send a piece of the body at once; returns true if the client is behind."""
        ...

    async def drained(self) -> None:
        """Wait until the client has caught up, or has disconnected."""
        ...

    def when_disconnected(self, call: Callable[[], None] | None) -> None:
        """Call `call` once the client has disconnected, even if it has already; `None` stops it."""
        ...


class SendBuffer:
    def __init__(self, keepalive: float = math.inf, comment: bytes | None = None) -> None:
        """`comment` is sent after each `keepalive` seconds without anything else; `None`: never."""
        self._loop = asyncio.get_running_loop()
        self._keepalive = math.inf if comment is None else keepalive
        self._comment = comment or b""
        self._pieces: list[bytes] = []
        self._bytes = 0
        self.is_full = False
        """The answer should wait in `drain`."""
        self._ended = False
        self.begun: asyncio.Future[None] = self._loop.create_future()
        """Done with the first piece; raises the failure of an answer that ended before it."""
        self._waiting_sender: asyncio.Future[None] | None = None
        self._emptied = asyncio.Event()
        self._sent_at = 0.0
        """Time of the last send, by the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._wire: Wire | None = None
        self._wire_is_full = False
        self._writing = False
        """A write of the buffered bytes is due in the loop's next turn."""
        self._before = 0
        """Bytes that were buffered a turn ago."""

    # --- for the answer ---

    def put(self, data: bytes) -> bool:
        """Send or keep `data`; returns true where the answer should wait in `drain`."""
        if self._writing:  # A burst, all of which is written together.
            self._pieces.append(data)
            self._bytes += len(data)
            self.is_full = self._bytes > _MAX_BYTES
            return self.is_full
        if not data:
            return False
        if self._wire is not None and not self._pieces:
            now = self._loop.time()
            if now - self._sent_at > _BURST_SECONDS and not self._wire_is_full:
                self._sent_at = now
                self._wire_is_full = self._wire.write(data)
                return False
        self._pieces.append(data)
        self._bytes += len(data)
        self.is_full = self._bytes > _MAX_BYTES
        if self._wire is not None:
            self._writing = True
            self._loop.call_soon(self._write)
        elif self._waiting_sender is not None:
            _wake(self._waiting_sender)
        elif not self.begun.done():
            self.begun.set_result(None)
        return self.is_full

    async def drain(self) -> None:
        """Wait until the buffer was emptied, if it is full."""
        if self.is_full:
            self._emptied.clear()
            await self._emptied.wait()

    def fail(self, exc: Exception) -> bool:
        """Make `begun` raise `exc`; returns false if `begun` is done already."""
        if self.begun.done():
            return False
        self.begun.set_exception(exc)
        self.begun.exception()  # Marks it as retrieved: the response may be gone.
        return True

    def end(self) -> None:
        """Mark the answer as complete."""
        self._ended = True
        if self._timer is not None:  # Until it is due it would keep all of the answer.
            self._timer.cancel()
        if not self.begun.done():
            self.begun.set_result(None)
        if self._waiting_sender is not None:
            _wake(self._waiting_sender)

    # --- for the response ---

    async def take(self) -> bytes:
        """Take all buffered bytes, at least a comment; empty at the end."""
        self._sent_at = self._loop.time()
        if not self._pieces and not self._ended:
            await self._wait_for_data()
        while self._grows():  # noqa: ASYNC110 - gives the answer a turn, no waiting
            await asyncio.sleep(0)
        return self._all()

    async def pour(self, wire: Wire) -> None:
        """Write everything to `wire` until the end; this task has a turn only if `wire` is full."""
        self._wire = wire
        while self._pieces or not self._ended:
            await wire.drained()
            self._wire_is_full = wire.write(self._all())
            if not self._ended:
                await self._wait_for_data()

    def _write(self) -> None:
        """Write the pieces of this turn of the loop, unless a burst lasts."""
        self._writing = False
        if self._wire is None or not self._pieces:
            return
        if len(self._pieces) > 1 and self._grows():
            self._writing = True
            self._loop.call_soon(self._write)
        elif not self._wire_is_full:
            self._wire_is_full = self._wire.write(self._all())
        elif self._waiting_sender is not None:
            _wake(self._waiting_sender)

    def _grows(self) -> bool:
        """Return true while a burst lasts: several pieces at once mean that more will follow."""
        before, self._before = self._before, self._bytes
        many = len(self._pieces) > 1 and not self._ended
        return many and before < self._bytes <= _MAX_BYTES

    def _all(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._bytes = self._before = 0
        self._sent_at = self._loop.time()
        if self.is_full:
            self.is_full = False
            self._emptied.set()
        return data

    async def _wait_for_data(self) -> None:
        # One timer for many waits: a timer for each costs more than the wait.
        if self._timer is None and self._keepalive < math.inf:
            self._timer = self._loop.call_at(self._sent_at + self._keepalive, self._send_comment)
        self._waiting_sender = self._loop.create_future()
        try:
            await self._waiting_sender
        finally:
            self._waiting_sender = None

    def _send_comment(self) -> None:
        now = self._loop.time()
        due = self._sent_at + self._keepalive
        if now >= due:
            due = now + self._keepalive
            if self._waiting_sender is not None:
                self.put(self._comment)
        self._timer = self._loop.call_at(due, self._send_comment)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
