"""Unload models that are not used: `keep_alive`, `ttl`, and the defaults of the configuration."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from adapters.config import MLXConfig
from adapters.errors import BackendError, InvalidRequestError

logger = logging.getLogger(__name__)

FOREVER = -1.0


class Timer(Protocol):
    def cancel(self) -> None: ...

    def when(self) -> float: ...


CallLater = Callable[[float, Callable[[str], None], str], Timer]
"""`loop.call_later` for a callback of one model name."""


def _call_later(seconds: float, callback: Callable[[str], None], name: str) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, callback, name)


class IdleUnload:
    """Counts the users of each model, and unloads it some seconds after the last one.

    The `keep_alive` of a request holds until the model is unloaded, or another request has one.
    Lives on the event loop.
    """

    def __init__(
        self,
        config: MLXConfig,
        is_loaded: Callable[[str], bool],
        unload: Callable[[str], Awaitable[None]],
        call_later: CallLater = _call_later,
    ) -> None:
        self._config = config
        self._is_loaded = is_loaded
        self._unload = unload
        self._call_later = call_later
        self._users: Counter[str] = Counter()
        self.used_at: dict[str, float] = {}
        """Time of the last use of each model, by `time.monotonic`."""
        self._keep_alive: dict[str, float] = {}
        self._pinned: set[str] = set()
        self._timers: dict[str, Timer] = {}
        self._unloading: set[asyncio.Task[None]] = set()

    @contextmanager
    def using(self, name: str, keep_alive: float | None) -> Generator[None]:
        """Count a user of `name`: a request that waits for the load or the answer.

        Raises:
            InvalidRequestError: `keep_alive` is not a number of seconds.
        """
        if keep_alive is not None and math.isnan(keep_alive):
            raise InvalidRequestError("'keep_alive' is not a number.", param="keep_alive")
        self._stop_timer(name)
        self._users[name] += 1
        self.used_at[name] = time.monotonic()
        if keep_alive is not None:
            self._keep_alive[name] = keep_alive
        try:
            yield
        finally:
            self._users[name] -= 1
            self.used_at[name] = time.monotonic()
            if not self._users[name]:
                self._start_timer(name)

    def loaded(self, name: str) -> None:
        """Start the timer after a load; all of its callers may have disconnected."""
        if not self._users[name]:
            self._start_timer(name)

    def set_pinned(self, name: str, pinned: bool) -> None:
        """See `KeepsPinned.set_pinned`; it holds beyond the unloading of the model."""
        (self._pinned.add if pinned else self._pinned.discard)(name)
        self.loaded(name)

    def users(self, name: str) -> int:
        return self._users[name]

    def expires_at(self, name: str) -> float | None:
        """Time by the loop's clock at which `name` is unloaded if it stays unused."""
        timer = self._timers.get(name)
        return None if timer is None else timer.when()

    def forget(self, name: str) -> None:
        """Drop the state of an unloaded model: its next load begins with the configured time."""
        self._stop_timer(name)
        self._keep_alive.pop(name, None)
        self.used_at.pop(name, None)

    def close(self) -> None:
        for name in tuple(self._timers):
            self._stop_timer(name)
        for task in self._unloading:
            task.cancel()

    def _start_timer(self, name: str) -> None:
        del self._users[name]
        self._stop_timer(name)
        if not self._is_loaded(name):
            self.forget(name)
            return
        if 0 <= (seconds := self._seconds(name)) < math.inf:
            self._timers[name] = self._call_later(seconds, self._expire, name)

    def _seconds(self, name: str) -> float:
        wanted = self._keep_alive.get(name)
        if name in self._pinned and wanted != 0:
            return FOREVER
        if wanted is not None:
            return wanted
        default = FOREVER if self._config.keep_alive is None else self._config.keep_alive
        return self._config.keep_alive_of.get(name, default)

    def _stop_timer(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def _expire(self, name: str) -> None:
        del self._timers[name]
        task = asyncio.create_task(self._unload_unused(name))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _unload_unused(self, name: str) -> None:
        try:
            await self._unload(name)
        except BackendError as error:
            # A request came in the meantime; the last one starts the timer again.
            logger.info("%s stays loaded: %s", name, error.message)
