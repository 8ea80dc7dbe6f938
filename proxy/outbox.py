"""What is on its way to one client: put in by an answer's task, taken by the response's.

Everything that came together leaves together: a body of its own for each token would cost more
than the token.
"""

import asyncio

_KEEPALIVE = b": keepalive\n\n"
"""A comment: clients skip it, and see that somebody is still there."""
_MOST_BYTES = 65_536
"""Then the answer waits for the client."""


class Outbox:
    def __init__(self, keepalive: float | None) -> None:
        """A comment is put in whenever nobody else did for `keepalive` seconds; `None`: never."""
        self._loop = asyncio.get_running_loop()
        self._keepalive = keepalive
        self._held: list[bytes] = []
        self._bytes = 0
        self._ended = False
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._taker: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._silent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # --- for the one who answers ---

    @property
    def is_full(self) -> bool:
        return self._bytes > _MOST_BYTES

    def put(self, data: bytes) -> None:
        self._held.append(data)
        self._bytes += len(data)
        if self._taker is not None:
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
        if self._keepalive is not None:
            self._silent_at = self._loop.time() + self._keepalive
        if not self._held and not self._ended:
            await self._something()
        if len(self._held) > 1:
            await self._all_that_comes()
        data = b"".join(self._held)
        self._held.clear()
        self._bytes = 0
        if self._room is not None:
            _wake(self._room)
        return data

    async def _something(self) -> None:
        # One timer for many waits: to set one for each costs more than what it waits for.
        if self._timer is None and self._keepalive is not None:
            self._timer = self._loop.call_at(self._silent_at, self._be_heard)
        self._taker = self._loop.create_future()
        try:
            await self._taker
        finally:
            self._taker = None

    async def _all_that_comes(self) -> None:
        """Several at once mean that more is on its way: an answer leaves turns to others."""
        before = 0
        while before < self._bytes <= _MOST_BYTES and not self._ended:
            before = self._bytes
            await asyncio.sleep(0)

    def _be_heard(self) -> None:
        self._timer = None
        if self._ended:
            return
        if self._loop.time() < self._silent_at:
            self._timer = self._loop.call_at(self._silent_at, self._be_heard)
        elif self._taker is not None:
            self.put(_KEEPALIVE)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
