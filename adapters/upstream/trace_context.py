"""W3C Trace Context: the trace that a request belongs to, from clients and to upstream servers.

Source: https://www.w3.org/TR/trace-context/
"""

import random
import re
from collections.abc import Mapping
from contextvars import ContextVar, Token

from msgspec import Struct

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_MAX_STATE = 512
"""Characters of `tracestate` that have to be passed on."""


class TraceContext(Struct, frozen=True, kw_only=True):
    """A span as the parent of others; ids as integers."""

    trace_id: int
    span_id: int
    flags: int = 1
    """1: the trace is recorded."""
    state: str = ""
    """The header `tracestate`, which belongs to other systems."""

    def child(self) -> "TraceContext":
        """Create a span of the same trace, with an id of its own."""
        return TraceContext(
            trace_id=self.trace_id, span_id=_new_id(64), flags=self.flags, state=self.state
        )

    def headers(self) -> bytes:
        """The lines of an HTTP request."""
        line = f"traceparent: 00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}\r\n"
        return (line + (f"tracestate: {self.state}\r\n" if self.state else "")).encode("latin-1")


_current: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)


def new_trace() -> TraceContext:
    """Create the first span of a trace."""
    return TraceContext(trace_id=_new_id(128), span_id=_new_id(64))


def to_trace_context(fields: Mapping[str, str]) -> TraceContext | None:
    """Read `traceparent` and `tracestate`; `None` without them, or if they are not valid."""
    match = _TRACEPARENT.fullmatch(fields.get("traceparent", ""))
    if match is None:
        return None
    trace_id, span_id, flags = [int(part, 16) for part in match.groups()]
    if not trace_id or not span_id:
        return None
    state = fields.get("tracestate", "")
    is_short = len(state) <= _MAX_STATE and state.isascii() and state.isprintable()
    return TraceContext(
        trace_id=trace_id, span_id=span_id, flags=flags, state=state if is_short else ""
    )


def set_trace(context: TraceContext) -> Token[TraceContext | None]:
    """Pass `context` on to upstream servers, also in tasks that begin from now on; `reset_trace`
    ends it."""
    return _current.set(context)


def reset_trace(token: Token[TraceContext | None]) -> None:
    _current.reset(token)


def trace_headers() -> bytes:
    """The lines that pass the current trace on; empty without one."""
    context = _current.get()
    return b"" if context is None else context.headers()


def _new_id(bits: int) -> int:
    return random.getrandbits(bits) or 1
