"""The request log: one line for each answer of a model, and for each error.

It tells model, backend, tokens, times and outcome; never prompts, answers or keys.
"""

import asyncio
import json
import queue
import threading
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from proxy.log_file import LogStream
from proxy.record import Record

LogFormat = Literal["text", "json"]

_LONGEST = 200
"""Characters of a text that a client chose."""


class LogLine(Struct, frozen=True, kw_only=True):
    """One answer. `None` is "not known", or "does not apply"."""

    request_id: str
    method: str
    path: str
    """At most 200 characters, printable."""
    status: int | None
    """`None` where the client disconnected before the head of the answer was sent."""
    outcome: str
    """`ok`, `error`, `disconnected` or `shutdown`."""
    error: str | None
    """The code of the failure."""
    key: str | None
    """The name of the request's key."""
    model: str | None
    """The public name that the client asked for, at most 200 characters, printable."""
    backend: str
    fallback_from: str | None
    """`NAME; reason=CODE` of the backend that failed before."""
    streamed: bool
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    ttft_s: float | None
    """Seconds from the request's arrival to the first piece of the answer."""
    tokens_per_second: float | None
    total_s: float


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
        *,
        batch_seconds: float = 0.2,
        max_batches: int = 100,
        close_seconds: float = 1.0,
    ) -> None:
        """Lines wait for `batch_seconds`, batches for the stream; beyond `max_batches` they are
        dropped. Closing waits for `close_seconds` at most."""
        self._batch_seconds = batch_seconds
        self._close_seconds = close_seconds
        self._to_text = _to_json if form == "json" else _to_text
        self._stream = stream
        self._records: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        self._batches: queue.Queue[str | None] = queue.Queue(max_batches)
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Lines that were not written because the stream takes none."""

    def read(self, record: Record) -> None:
        """Take a record that was closed; its line is written a moment later."""
        if not record.model and record.outcome == "ok":
            return
        self._records.append(record)
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
        records, self._records, self._timer = self._records, [], None
        batch = "".join([self._to_text(to_log_line(record)) + "\n" for record in records])
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
            self._thread.start()
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self.dropped += len(records)

    def _write(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._stream.write(batch)
                self._stream.flush()
            except (OSError, ValueError):  # A full disk, a closed pipe: answers go on.
                self.dropped += batch.count("\n")


def to_log_line(record: Record) -> LogLine:
    """Read a record that is closed."""
    usage, first = record.usage, record.first_token_s
    speed = record.tokens_per_second
    return LogLine(
        request_id=record.request_id,
        method=record.method,
        path=_printable(record.path),
        status=record.status,
        outcome=record.outcome or "ok",
        error=record.error,
        key=record.grant.key,
        model=_printable(record.model) or None,
        backend=record.backend,
        fallback_from=record.fallback_from,
        streamed=record.streamed,
        prompt_tokens=usage.prompt_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        ttft_s=None if first is None else round(first, 4),
        tokens_per_second=None if speed is None else round(speed, 4),
        total_s=round((record.closed_at or record.clock()) - record.arrived_at, 4),
    )


def _printable(text: str) -> str:
    """Shorten a text of a client, which begins no line and controls no terminal."""
    text = text[:_LONGEST]
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else "?" for char in text])


def _to_json(line: LogLine) -> str:
    return msgspec.json.encode(line).decode()


_NAMES = LogLine.__struct_fields__
_ENDS_VALUE = frozenset(' ="')


def _to_text(line: LogLine) -> str:
    facts = zip(_NAMES, astuple(line), strict=True)
    return " ".join([f"{name}={_quoted(value)}" for name, value in facts if value is not None])


def _quoted(value: object) -> str:
    """Quote a value that could be taken for several."""
    text = str(value)
    return text if text and _ENDS_VALUE.isdisjoint(text) else json.dumps(text, ensure_ascii=False)
