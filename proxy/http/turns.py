"""Turns of the event loop, shared by requests that begin or end in the same moment.

The loop runs everything that is ready before it looks at its timers and sockets again. Hundreds of
requests that arrive at once would hold it for the sum of their beginnings, each of which parses,
routes and connects, and `/health` and the tokens of other answers would wait for all of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable

_PER_TURN = 2
"""Requests that begin or end in one turn of the loop: about a millisecond."""


class Turns:
    """Starts what is given to it in order, `_PER_TURN` in each turn of the running loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._started = 0
        """In this turn."""

    def take(self, start: Callable[[], object]) -> None:
        """Call `start` now, or in a later turn if enough was started in this one."""
        if self._waiting or self._started >= _PER_TURN:
            self._waiting.append(start)
        else:
            self._start(start)

    def _start(self, start: Callable[[], object]) -> None:
        if not self._started:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._started += 1
        start()

    def _next_turn(self) -> None:
        self._started = 0
        while self._waiting and self._started < _PER_TURN:
            self._start(self._waiting.popleft())
