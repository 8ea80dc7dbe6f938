"""Requests on their way to the engine: prompts that come together are cheaper to read together."""

import threading
from collections.abc import Callable
from typing import Self

_MOMENT = 0.02
"""Seconds that an idle engine waits for others at most. Templates and tokens take a few
milliseconds; a prompt of a whole book is not waited for."""


class ExpectedRequest:
    """One request that is being prepared. It is over where it was submitted, or came to nothing."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.over()

    def over(self) -> None:
        """May be called again."""
        if not self._is_over:
            self._is_over = True
            self._ended()


class BatchingWindow:
    """Noted on the event loop, waited for on the engine's thread; `wake` guards both."""

    def __init__(self, wake: threading.Condition) -> None:
        self._wake = wake
        self._count = 0

    def expect(self) -> ExpectedRequest:
        with self._wake:
            self._count += 1
        return ExpectedRequest(self._end)

    def wait(self) -> None:
        """Until nobody is on the way, or a moment has passed; called with `wake` held."""
        self._wake.wait_for(lambda: self._count == 0, _MOMENT)

    def _end(self) -> None:
        with self._wake:
            self._count -= 1
            self._wake.notify()
