"""Output of a server that runs for months: it never waits for its reader, and never ends for it."""

import logging
import logging.handlers
import os
import queue
import signal
import sys
import threading
from contextlib import suppress

_MAX_LINES = 1000
"""Lines of the log that wait for a reader; further ones are dropped."""
_END_SECONDS = 1.0
_THREADS_SECONDS = 3.0
"""For other threads, of which one may read from a disk that does not respond."""
_UNWRITABLE = (OSError, ValueError, AttributeError)
"""The stream is a closed pipe, a full disk; was closed; or was never there."""


class _Dropping(logging.handlers.QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)


class Output:
    """Writes the log and announcements on a thread: a pipe that nothing reads blocks a write."""

    def __init__(self) -> None:
        self._lines: queue.Queue[logging.LogRecord | str | None] = queue.Queue(_MAX_LINES)
        root = logging.getLogger()
        self._handlers = [*root.handlers]
        root.handlers = [_Dropping(self._lines)]
        self._thread = threading.Thread(target=self._write, name="output", daemon=True)
        self._thread.start()

    def print(self, line: str) -> None:
        """Write `line` to stdout, a moment later."""
        with suppress(queue.Full):
            self._lines.put_nowait(line)

    def end(self, code: int) -> None:
        """Write what is left. Ends the process at once, with `code`, where that is not possible.

        A thread that waits in a write holds the lock of its stream, and the end of the interpreter
        would abort over it. It waits for the threads of all pools, which gets a limit here.
        """
        limit = threading.Timer(_THREADS_SECONDS, os._exit, (code,))
        limit.daemon = True
        limit.start()
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(_END_SECONDS)
        writers = {thread.name for thread in threading.enumerate()} & {"output", "request-log"}
        if writers:
            os._exit(code)
        for stream in (sys.stdout, sys.stderr):
            _abandon_if_unwritable(stream)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, str):
                with suppress(*_UNWRITABLE):
                    print(line, flush=True)
                continue
            for handler in self._handlers:
                handler.handle(line)


def _abandon_if_unwritable(stream: object) -> None:
    """Flush `stream`; where that fails, send the rest to nowhere, or the exit would fail on it."""
    try:
        getattr(stream, "flush")()  # noqa: B009 - it may be `None`
    except _UNWRITABLE:
        with suppress(*_UNWRITABLE):
            os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(stream, "fileno")())  # noqa: B009


def leave_at_signals() -> None:
    """Let SIGINT end this process without a traceback, before and after the server handles it.

    SIGHUP, which a closing terminal sends, ends nothing, nor do signals by which other servers open
    their logs again, which a rotation of all logs sends. A handler, unlike `SIG_IGN`, is not
    passed on to other programs.
    """
    signal.signal(signal.SIGINT, lambda _sig, _frame: os._exit(128 + signal.SIGINT))
    for without_effect in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(without_effect, lambda _sig, _frame: None)
