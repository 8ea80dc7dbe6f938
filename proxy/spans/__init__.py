"""Traces for OpenTelemetry: switched on by its own variables, with the extra `otel`."""

import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import Protocol

from proxy.metrics.answers import Listed
from proxy.record import Record

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

log = logging.getLogger("tandem")


class TraceReader(Protocol):
    """A reader of records that makes spans of them."""

    def read(self, record: Record) -> None: ...

    def close(self) -> None:
        """Export what is left, and end; may take seconds."""
        ...


def open_traces(listed: Listed, environ: Mapping[str, str]) -> TraceReader | None:
    """Begin to export to the address that the environment names; `None` where it names none.

    A missing extra is logged: the server answers without traces.
    """
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not any(environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from proxy.spans.export import Traces
    except ImportError as exc:
        log.warning(
            "No traces are exported, although `%s` is set: %s is not installed. Install Tandem "
            "with its extra, as in `uv sync --extra otel`.",
            next(name for name in _ENDPOINTS if environ.get(name)),
            exc.name,
        )
        return None
    return Traces(listed, OTLPSpanExporter(), version("tandem-proxy"))
