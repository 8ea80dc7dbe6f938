"""Render chat templates in processes that can be killed.

Jinja's sandbox keeps a template from calling code, not from looping or from filling the memory,
and a thread that does so cannot be ended. Templates come with downloaded models, so that none is
rendered in the server's own process.
"""

import atexit
import marshal
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from adapters.chat_template.jinja import TemplateRefusalError
from adapters.chat_template.worker import OUTCOMES, receive, send
from adapters.errors import GenerationError

_IDLE = 2
"""Workers that are kept: renderings of more models at a time each start their own."""


_VARIABLES = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_", "LD_", "DYLD_", "PYTHON", "COV")
"""Beginnings of the environment variables that Python needs; others may hold keys."""


class Limits(Struct, frozen=True):
    """Limits of one rendering."""

    seconds: float = 3.0
    """Processor time. Templates take milliseconds, 100 ms with their compilation."""
    wall_seconds: float = 30.0
    """Time for the same on a machine that is busy otherwise."""
    memory: int = 1 << 30
    """Bytes of addresses of a worker, which has about 40 MB before its first rendering."""
    length: int = 64_000_000
    """Characters of a prompt: twice the largest body of a request."""


class TemplateLimitError(GenerationError):
    """A rendering exceeded a limit. `clause` completes "the model's chat template ..."."""

    lasting = True

    def __init__(self, clause: str) -> None:
        super().__init__(f"The model's chat template {clause}.")
        self.clause = clause


class Renderers:
    """Worker processes, started when there is no idle one. Safe for threads."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self.renderings = 0
        """Number of renderings so far."""

    def render(
        self,
        text: str,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        arguments: Mapping[str, Any],
    ) -> str:
        """Render as `jinja.render_template`. Blocks: not for the event loop.

        Raises:
            TemplateRefusalError: the template, or Jinja, has a reason not to.
            TemplateLimitError: it exceeds a limit.
            GenerationError: no worker can be started.
        """
        given = (text, list(messages), None if tools is None else list(tools), dict(arguments))
        worker = self._take()
        self.renderings += 1
        try:
            outcome = worker.render(marshal.dumps(given))
        except BaseException:
            worker.close()
            raise
        self._put(worker)
        if isinstance(outcome, TemplateRefusalError):
            raise outcome
        return outcome

    def close(self) -> None:
        """End the idle workers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def _take(self) -> "_Worker":
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            return _Worker(self._limits)
        except OSError as error:
            raise GenerationError(
                f"The process that renders chat templates cannot be started: {error.strerror}."
            ) from error

    def _put(self, worker: "_Worker") -> None:
        with self._lock:
            if len(self._idle) < _IDLE:
                self._idle.append(worker)
                return
        worker.close()


class _Worker:
    """A process that renders, and the socket to it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connection, end = socket.socketpair()
        numbers = (limits.seconds, limits.memory, limits.length)
        # -P: not a folder named `adapters` in the server's working directory.
        command = [sys.executable, "-P", "-m", "adapters.chat_template.worker"]
        variables = {
            name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)
        }
        with end:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, str(end.fileno()), *map(str, numbers)],
                env=variables,
                stdin=subprocess.DEVNULL,
                pass_fds=[end.fileno()],
                start_new_session=True,  # Ctrl-C is for the server.
            )
        self._connection.settimeout(limits.wall_seconds)

    def render(self, request: bytes) -> str | TemplateRefusalError:
        """
        Raises:
            TemplateLimitError: a limit is exceeded; the worker is of no use any more.
        """
        try:
            send(self._connection, request)
            reply = receive(self._connection)
        except (TimeoutError, ConnectionError):
            reply = None
        limits = self._limits
        if reply is None:
            raise TemplateLimitError(f"takes longer than {limits.seconds:g} seconds to render")
        outcome, body = OUTCOMES[reply[0]], reply[1]
        if outcome == "memory":
            gigabytes = limits.memory / (1 << 30)
            raise TemplateLimitError(f"needs more than {gigabytes:g} GB of memory to render")
        if outcome == "length":
            raise TemplateLimitError(f"makes a prompt of more than {limits.length:,} characters")
        text = body.decode("utf-8", "surrogatepass")
        return TemplateRefusalError(text) if outcome == "refusal" else text

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


RENDERERS = Renderers()
"""The workers of this process."""
atexit.register(RENDERERS.close)
