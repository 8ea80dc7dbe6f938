"""Traces for OpenTelemetry, read from records; needs the extra `otel`.

Switched on by OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`. Spans are made
when an answer has ended, with the times that its record has, so that an answer waits for nothing.

Source: https://github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai/gen-ai-spans.md)
"""

import time
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from adapters.upstream.trace_context import TraceContext
from proxy.errors import to_code
from proxy.metrics.answers import Listed
from proxy.record import Attempt, Record


class Traces:
    """Exports a span for each request to a model, with a child for each attempt on a backend."""

    def __init__(self, listed: Listed, exporter: SpanExporter, version: str) -> None:
        self._listed = listed
        self._ids = _ChosenIds()
        resource = Resource.create({"service.name": "tandem", "service.version": version})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tandem", version)

    def close(self) -> None:
        """Export what is left, and end; may take seconds."""
        self._provider.shutdown()

    def read(self, record: Record) -> None:
        """Make the spans of a request that has ended."""
        if record.span is None or not record.model:
            return
        to_ns = _clock(record)
        span = self._begin(record, record.span, to_ns(record.arrived_at))
        here = trace.set_span_in_context(span)
        for attempt in record.attempts:
            child = self._tracer.start_span(
                f"{attempt.backend} {attempt.model}",
                context=here,
                kind=SpanKind.CLIENT,
                start_time=to_ns(attempt.began_at),
            )
            self._describe(child, record, attempt)
            for name, at in (("admitted", attempt.ready_at), ("first_token", attempt.first_at)):
                if at is not None:
                    child.add_event(name, timestamp=to_ns(at))
            _fail(child, to_code(attempt.error) if attempt.error is not None else None)
            child.end(to_ns(attempt.ended_at or record.closed_at or record.clock()))
        _fail(span, record.error)
        span.end(to_ns(record.closed_at or record.clock()))

    def _begin(self, record: Record, own: TraceContext, start: int) -> Span:
        parent = None
        if record.parent_span is not None:
            context = SpanContext(
                own.trace_id,
                record.parent_span.span_id,
                is_remote=True,
                trace_flags=TraceFlags(own.flags),
            )
            parent = trace.set_span_in_context(NonRecordingSpan(context))
        self._ids.choose(own)
        span = self._tracer.start_span(
            f"{record.operation or record.path} {record.model[:200]}",
            context=parent,
            kind=SpanKind.SERVER,
            start_time=start,
        )
        span.set_attributes(
            {
                "http.request.method": record.method,
                "url.path": record.path,
                "http.response.status_code": record.status or 0,
                "user_agent.original": record.agent[:200],
                "tandem.request_id": record.request_id,
                "tandem.outcome": record.outcome or "ok",
                "tandem.fallback_from": record.fallback_from or "",
            }
        )
        self._describe(span, record, record.attempts[-1] if record.attempts else None)
        return span

    def _describe(self, span: Span, record: Record, attempt: Attempt | None) -> None:
        if record.operation is not None:
            span.set_attribute("gen_ai.operation.name", record.operation)
        span.set_attribute("gen_ai.request.model", record.model[:200])
        if attempt is None:
            return
        listed = self._listed(attempt.backend, attempt.model)
        span.set_attribute("gen_ai.provider.name", listed[0] if listed else attempt.backend)
        span.set_attribute("gen_ai.response.model", attempt.model)
        span.set_attribute("tandem.backend", attempt.backend)
        if (usage := attempt.usage) is not None:
            span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
        if attempt.finished and record.operation != "embeddings":
            reasons = [attempt.finished[choice].reason for choice in sorted(attempt.finished)]
            span.set_attribute("gen_ai.response.finish_reasons", reasons)


class _ChosenIds(IdGenerator):
    """Random ids, except for the next span after `choose`."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._next: TraceContext | None = None

    def choose(self, own: TraceContext) -> None:
        """Give the next span the ids of `own`, which upstream servers know already."""
        self._next = own

    def generate_span_id(self) -> int:
        chosen, self._next = self._next, None
        return self._random.generate_span_id() if chosen is None else chosen.span_id

    def generate_trace_id(self) -> int:
        return self._random.generate_trace_id() if self._next is None else self._next.trace_id


def _clock(record: Record) -> Callable[[float], int]:
    """Return what converts the times of a record to nanoseconds since 1970."""
    now_ns, now = time.time_ns(), record.clock()
    return lambda at: now_ns - round((now - at) * 1e9)


def _fail(span: Span, code: str | None) -> None:
    if code is not None:
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR, code))
