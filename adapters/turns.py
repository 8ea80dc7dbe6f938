"""Turns of the event loop, shared by work that becomes ready in the same moment.

The loop runs everything that is ready, and reads every socket that has data, before it looks at its
timers and sockets again. Hundreds of requests that arrive at once, or tokens of as many answers,
would hold it for the sum of their work, and `/health` would wait for all of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Runs what is given to it in order, `per_turn` calls in each turn of the running loop."""

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._waiting: deque[Callable[[], object]] = deque()
        self._started = 0
        """In this turn."""

    def take(self, start: Callable[[], object]) -> bool:
        """Call `start` now and return true, or in a later turn if enough was started in this."""
        if self._waiting or self._started >= self._per_turn:
            self._waiting.append(start)
            return False
        if not self._started:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._started += 1
        start()
        return True

    def _next_turn(self) -> None:
        self._started = 0
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next_turn)
        while self._waiting and self._started < self._per_turn:
            self._started += 1
            self._waiting.popleft()()
