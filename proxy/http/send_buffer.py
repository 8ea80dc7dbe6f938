"""What is on its way to one client: put in by an answer's task, taken by the response's.

Everything that came together leaves together: a body of its own for each token would cost more
than the token. Where the server has a `Wire`, a token takes no turn of the response's task either.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

WIRE = "tandem.wire"
"""The ASGI extension that is a `Wire`."""
_KEEPALIVE = b": keepalive\n\n"
"""A comment: clients skip it, and see that somebody is still there."""
_MOST_BYTES = 65_536
"""Then the answer waits for the client."""
_ALONE = 0.002
"""Seconds of silence, after which a piece is none of many."""


class Wire(Protocol):
    """The way to the client past ASGI's `send`."""

    @property
    def is_full(self) -> bool:
        """The client reads more slowly than it is written to."""
        ...

    def write(self, data: bytes) -> None:
        """A piece of the body, at once."""
        ...

    async def drained(self) -> None:
        """Wait until it is not full, or the client has gone."""
        ...

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """`call` once the client has gone, even if it has already; `None`: nobody asks any more."""
        ...


class SendBuffer:
    def __init__(self, keepalive: float | None) -> None:
        """A comment is put in whenever nobody else did for `keepalive` seconds; `None`: never."""
        self._loop = asyncio.get_running_loop()
        self._keepalive = math.inf if keepalive is None else keepalive
        self._held: list[bytes] = []
        self._bytes = 0
        self.is_full = False
        """The one who answers should wait for `room`."""
        self._ended = False
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._taker: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._left_at = 0.0
        """When something was sent last, by the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._wire: Wire | None = None
        self._writing = False
        """What is held will be written in the loop's next turn."""
        self._before = 0
        """The bytes that were held a turn ago."""

    # --- for the one who answers ---

    def put(self, data: bytes) -> None:
        if self._wire is not None and not self._held:
            now = self._loop.time()
            # What comes after a silence is none of many.
            if now - self._left_at > _ALONE and not self._wire.is_full:
                self._left_at = now
                self._wire.write(data)
                return
        self._held.append(data)
        self._bytes += len(data)
        self.is_full = self._bytes > _MOST_BYTES
        if self._wire is not None:
            if not self._writing:
                self._write_soon()
        elif self._taker is not None:
            _wake(self._taker)
        elif not self._begun.done():
            self._begun.set_result(None)

    async def room(self) -> None:
        """Wait until it was emptied."""
        self._room = self._loop.create_future()
        await self._room

    def fail(self, exc: Exception) -> bool:
        """Tell `begun` of `exc`; false where it is too late for that."""
        if self._begun.done():
            return False
        self._begun.set_exception(exc)
        self._begun.exception()  # Where nobody waits any more, nobody need hear of it.
        return True

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        if not self._begun.done():
            self._begun.set_result(None)
        if self._taker is not None:
            _wake(self._taker)

    # --- for the one who sends ---

    async def begun(self) -> None:
        """Wait for the first piece.

        Raises:
            Exception: what the answer failed with before it.
        """
        await self._begun

    async def take(self) -> bytes:
        """Everything there is, at least a comment; nothing at the end."""
        self._left_at = self._loop.time()
        if not self._held and not self._ended:
            await self._something()
        while self._grows():  # noqa: ASYNC110 - a turn for whoever puts in, no waiting
            await asyncio.sleep(0)
        return self._all()

    async def pour(self, wire: Wire) -> None:
        """Write all there is and will be to `wire`; this task has a turn only where it is full."""
        self._wire = wire
        while self._held or not self._ended:
            await wire.drained()
            wire.write(self._all())
            if not self._ended:
                await self._something()

    def _write_soon(self) -> None:
        self._writing = True
        self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._writing = False
        if self._wire is None or not self._held:
            return
        if self._grows():
            self._write_soon()
        elif not self._wire.is_full:
            self._wire.write(self._all())
        elif self._taker is not None:
            _wake(self._taker)

    def _grows(self) -> bool:
        """Several at once mean that more is on its way: an answer leaves turns to others."""
        before, self._before = self._before, self._bytes
        many = len(self._held) > 1 and not self._ended
        return many and before < self._bytes <= _MOST_BYTES

    def _all(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        self._bytes = self._before = 0
        self.is_full = False
        self._left_at = self._loop.time()
        if self._room is not None:
            _wake(self._room)
        return data

    async def _something(self) -> None:
        # One timer for many waits: to set one for each costs more than what it waits for.
        if self._timer is None and self._keepalive < math.inf:
            self._timer = self._loop.call_at(self._left_at + self._keepalive, self._be_heard)
        self._taker = self._loop.create_future()
        try:
            await self._taker
        finally:
            self._taker = None

    def _be_heard(self) -> None:
        self._timer = None
        if self._ended:
            return
        now = self._loop.time()
        due = self._left_at + self._keepalive
        if now >= due:
            due = now + self._keepalive
            if self._taker is not None:
                self.put(_KEEPALIVE)
        self._timer = self._loop.call_at(due, self._be_heard)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
