"""The request log: one line for each answer of a model, and for each error.

It tells model, backend, tokens, times and outcome; never prompts, answers or keys.
"""

import logging
import sys
from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct

from proxy.record import Record

LogFormat = Literal["text", "json"]

_LOGGER = "tandem.requests"


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


def request_log(form: LogFormat | None) -> tuple[Callable[[Record], None], ...]:
    """Create the readers of records that write the request log; none where `form` is `None`."""
    if form is None:
        return ()
    logger = logging.getLogger(_LOGGER)
    logger.setLevel(logging.INFO)
    to_text = _to_json if form == "json" else _to_text

    def read(record: Record) -> None:
        if record.model or record.outcome != "ok":
            logger.info(to_text(to_log_line(record)))

    return (read,)


def log_to_stderr() -> None:
    """Write the request log to stderr as it is, without the level and the logger's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(_LOGGER)
    logger.handlers = [handler]
    logger.propagate = False


def to_log_line(record: Record) -> LogLine:
    """Read a record that is closed."""
    usage = record.usage
    printable = "".join([c if c.isprintable() else "?" for c in record.model[:200]])
    return LogLine(
        request_id=record.request_id,
        method=record.method,
        path=record.path,
        status=record.status,
        outcome=record.outcome or "ok",
        error=record.error,
        model=printable or None,
        backend=record.backend,
        fallback_from=record.fallback_from,
        streamed=record.streamed,
        prompt_tokens=usage.prompt_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        ttft_s=_rounded(record.first_token_s),
        tokens_per_second=_rounded(record.tokens_per_second),
        total_s=round((record.closed_at or record.clock()) - record.arrived_at, 4),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _to_json(line: LogLine) -> str:
    return msgspec.json.encode(line).decode()


def _to_text(line: LogLine) -> str:
    facts = {name: getattr(line, name) for name in LogLine.__struct_fields__}
    known = [f"{name}={_quoted(value)}" for name, value in facts.items() if value is not None]
    return " ".join(known)


def _quoted(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or not text else text
