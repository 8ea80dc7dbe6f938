"""The batching window: prompts that arrive together are cheaper to read together."""

import threading
from collections.abc import Callable
from typing import Self


class ExpectedRequest:
    """A request that is being prepared; over once it was submitted, or failed."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.over()

    def over(self) -> None:
        """End the expectation; later calls do nothing."""
        if not self._is_over:
            self._is_over = True
            self._ended()


class BatchingWindow:
    """Counts requests on the event loop; the engine's thread waits. `wake` guards both."""

    def __init__(self, wake: threading.Condition, seconds: float) -> None:
        self._wake = wake
        self._seconds = seconds
        self._count = 0

    def expect(self) -> ExpectedRequest:
        with self._wake:
            self._count += 1
        return ExpectedRequest(self._end)

    def wait(self) -> None:
        """Wait until no request is being prepared, `seconds` at most; called with `wake` held."""
        self._wake.wait_for(lambda: self._count == 0, self._seconds)

    def _end(self) -> None:
        with self._wake:
            self._count -= 1
            self._wake.notify()
