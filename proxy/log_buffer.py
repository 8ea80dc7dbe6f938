"""The latest lines of the log, in memory, for the page."""

import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from msgspec import Struct

_LINES = 500
REQUEST_LOGGER = "tandem.request"
"""Logger of the lines of the request log."""
_LONGEST = 2000
"""Characters of a line."""


class LogRecord(Struct, frozen=True, kw_only=True):
    number: int
    """Later lines have higher ones, those of a later server too: the page outlives a restart."""
    at: float
    """Seconds since 1970."""
    level: str
    logger: str
    text: str


class LogBuffer(logging.Handler):
    """Keeps what is logged at `INFO` and above while it is `attached`."""

    def __init__(self, lines: int = _LINES) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[LogRecord] = deque(maxlen=lines)
        self._count = time.time_ns() // 1_000_000  # JavaScript's integers have 53 bits.

    def emit(self, record: logging.LogRecord) -> None:
        self._count += 1
        self._lines.append(
            LogRecord(
                number=self._count,
                at=round(record.created, 3),
                level=record.levelname.lower(),
                logger=record.name,
                text=record.getMessage()[:_LONGEST],
            )
        )

    def add_request(self, line: str) -> None:
        """Keep a line of the request log."""
        self.handle(logging.LogRecord(REQUEST_LOGGER, logging.INFO, "", 0, line, None, None))

    def after(self, number: int) -> list[LogRecord]:
        """Return the lines with a higher number, the oldest first."""
        return [line for line in tuple(self._lines) if line.number > number]

    @asynccontextmanager
    async def attached(self) -> AsyncGenerator[None]:
        """Collect from the loggers of the server and its engines."""
        loggers = [logging.getLogger(name) for name in ("tandem", "adapters", "proxy")]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)
