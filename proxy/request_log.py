"""The request log: one line for each answer of a model, and for each error.

It tells model, backend, tokens, times and outcome; never prompts, answers or keys.
"""

import asyncio
import json
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec.structs import astuple

from proxy.log_file import LogStream
from proxy.record import Record, Summary

LogFormat = Literal["text", "json"]


class RequestLog:
    """Writes the lines of ended answers, several at a time, on a thread of its own.

    Between two requests a line costs ten times as much as in a row, with cold caches and a system
    call of its own: a third of a short answer. The thread is there because the other end of the
    stream may be a pipe that nothing reads: then lines are dropped, and answers go on.
    """

    def __init__(
        self,
        form: LogFormat,
        stream: LogStream,
        keep: Callable[[str], None],
        *,
        batch_seconds: float = 0.2,
        max_batches: int = 100,
        close_seconds: float = 1.0,
    ) -> None:
        """Lines wait for `batch_seconds`, batches for the stream; beyond `max_batches` they are
        dropped. `keep` gets each line as well. Closing waits for `close_seconds` at most."""
        self._keep = keep
        self._batch_seconds = batch_seconds
        self._close_seconds = close_seconds
        self._to_text = _to_json if form == "json" else _to_text
        self._stream = stream
        self._ended: list[Summary] = []
        self._timer: asyncio.TimerHandle | None = None
        self._batches: queue.Queue[str | None] = queue.Queue(max_batches)
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Lines that were not written because the stream takes none."""

    def read(self, record: Record) -> None:
        """Take a record that was closed; its line is written a moment later."""
        if not record.model and record.outcome == "ok":
            return
        self._ended.append(record.summary)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                self._batch_seconds, self._hand_over
            )

    def close(self) -> None:
        """Write what is left, if the stream takes it within a second."""
        if self._timer is not None:
            self._timer.cancel()
            self._hand_over()
        if self._thread is not None:
            with suppress(queue.Full):  # Then the stream takes nothing, not even an end.
                self._batches.put_nowait(None)
            self._thread.join(self._close_seconds)

    def _hand_over(self) -> None:
        ended, self._ended, self._timer = self._ended, [], None
        lines = [self._to_text(summary) for summary in ended]
        for line in lines:
            self._keep(line)
        batch = "".join([line + "\n" for line in lines])
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
            self._thread.start()
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self.dropped += len(ended)

    def _write(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._stream.write(batch)
                self._stream.flush()
            except (OSError, ValueError):  # A full disk, a closed pipe: answers go on.
                self.dropped += batch.count("\n")


def _to_json(summary: Summary) -> str:
    return msgspec.json.encode(summary).decode()


_NAMES = Summary.__struct_fields__
_ENDS_VALUE = frozenset(' ="')


def _to_text(summary: Summary) -> str:
    facts = zip(_NAMES, astuple(summary), strict=True)
    return " ".join([f"{name}={_quoted(value)}" for name, value in facts if value is not None])


def _quoted(value: object) -> str:
    """Quote a value that could be taken for several."""
    text = str(value)
    return text if text and _ENDS_VALUE.isdisjoint(text) else json.dumps(text, ensure_ascii=False)
