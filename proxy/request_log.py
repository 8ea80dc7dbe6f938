"""The request log: one line for each answer of a model, and for each error.

It tells model, backend, tokens, times and outcome; never prompts, answers or keys.
"""

from collections.abc import Callable
from typing import Literal, TextIO

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from proxy.record import Record, to_speed

LogFormat = Literal["text", "json"]

RecordReader = Callable[[Record], None]


class LogLine(Struct, frozen=True, kw_only=True):
    """One answer. `None` is "not known", or "does not apply"."""

    request_id: str
    method: str
    path: str
    status: int | None
    """`None` where the client disconnected before the head of the answer was sent."""
    outcome: str
    """`ok`, `error`, `disconnected` or `shutdown`."""
    error: str | None
    """The code of the failure."""
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


def request_log(form: LogFormat | None, stream: TextIO | None) -> tuple[RecordReader, ...]:
    """Create the readers of records that write lines to `stream`; none without form or stream."""
    if form is None or stream is None:
        return ()
    to_text = _to_json if form == "json" else _to_text

    def read(record: Record) -> None:
        if record.model or record.outcome != "ok":
            stream.write(f"{to_text(to_log_line(record))}\n")
            stream.flush()

    return (read,)


def to_log_line(record: Record) -> LogLine:
    """Read a record that is closed."""
    usage, first, model = record.usage, record.first_token_s, record.model[:200]
    speed = None
    if usage is not None and first is not None:
        speed = to_speed(usage.completion_tokens, record.total_s - first)
    if not model.isprintable():
        model = "".join([char if char.isprintable() else "?" for char in model])
    return LogLine(
        request_id=record.request_id,
        method=record.method,
        path=record.path,
        status=record.status,
        outcome=record.outcome or "ok",
        error=record.error,
        model=model or None,
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


def _to_json(line: LogLine) -> str:
    return msgspec.json.encode(line).decode()


_NAMES = LogLine.__struct_fields__


def _to_text(line: LogLine) -> str:
    facts = zip(_NAMES, astuple(line), strict=True)
    return " ".join([f"{name}={_quoted(value)}" for name, value in facts if value is not None])


def _quoted(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or not text else text
