"""How long an unused model stays loaded: `keep_alive`, `ttl`, and what the configuration says."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from adapters.config import MLXConfig
from adapters.errors import BackendError, InvalidRequestError

logger = logging.getLogger(__name__)

FOREVER = -1.0


class IdleUnload:
    """Counts who uses each model, and unloads it so many seconds after the last of them.

    What a request says holds until the model is unloaded, or another says otherwise. Lives on the
    event loop.
    """

    def __init__(
        self,
        config: MLXConfig,
        is_loaded: Callable[[str], bool],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        self._config = config
        self._is_loaded = is_loaded
        self._unload = unload
        self._users: Counter[str] = Counter()
        self.used_at: dict[str, float] = {}
        """When each was used last, by `time.monotonic`."""
        self._said: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unloading: set[asyncio.Task[None]] = set()

    @contextmanager
    def using(self, name: str, keep_alive: float | None) -> Generator[None]:
        """While somebody waits for `name` to be loaded, or for its answer.

        Raises:
            InvalidRequestError: `keep_alive` is no number of seconds.
        """
        if keep_alive is not None and math.isnan(keep_alive):
            raise InvalidRequestError("keep_alive is not a number.", param="keep_alive")
        self._stop_timer(name)
        self._users[name] += 1
        self.used_at[name] = time.monotonic()
        if keep_alive is not None:
            self._said[name] = keep_alive
        try:
            yield
        finally:
            self._users[name] -= 1
            self.used_at[name] = time.monotonic()
            if not self._users[name]:
                self._rest(name)

    def loaded(self, name: str) -> None:
        """It was loaded, and those who asked for it may all have left."""
        if not self._users[name]:
            self._rest(name)

    def users(self, name: str) -> int:
        return self._users[name]

    def forget(self, name: str) -> None:
        """It was unloaded: the next load begins as the configuration says."""
        self._stop_timer(name)
        self._said.pop(name, None)
        self.used_at.pop(name, None)

    def close(self) -> None:
        for name in tuple(self._timers):
            self._stop_timer(name)
        for task in self._unloading:
            task.cancel()

    def _rest(self, name: str) -> None:
        """Nobody uses it now."""
        del self._users[name]
        self._stop_timer(name)
        if not self._is_loaded(name):
            self.forget(name)
            return
        seconds = self._said.get(name, self._configured(name))
        if 0 <= seconds < math.inf:
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(seconds, self._expire, name)

    def _configured(self, name: str) -> float:
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
            # Somebody came in the meantime; after the last of them it is tried again.
            logger.info("%s stays loaded: %s", name, error.message)
