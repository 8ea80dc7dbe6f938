"""Traces: `traceparent` from clients and to Ollama; spans of OpenTelemetry from records."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.recorded_ollama import StandIn, says_lines, stand_in
from fakes.scripted_backend import chat, named_client
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from adapters.config import OllamaConfig
from adapters.errors import BackendUnavailableError
from adapters.events import Finished, Started, TextDelta, Usage
from adapters.upstream.trace_context import TraceContext, to_trace_context
from proxy.config import Config
from proxy.record import Record
from proxy.spans import open_traces
from proxy.spans.export import Traces

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
CHAT = "/v1/chat/completions"
USAGE = Usage(prompt_tokens=30, completion_tokens=2)


@asynccontextmanager
async def ollama_that_answers() -> AsyncIterator[tuple[StandIn, Config]]:
    """A recorded Ollama, and a configuration with it alone."""
    async with stand_in() as server:
        server.replays("tags")
        server.replays("version")
        server.replays("show-llama", "/api/show")
        server.says("/api/ps", says_lines({"models": []}))
        server.replays("chat-stream")
        ollama = OllamaConfig(host=server.host)
        yield server, Config(backends={"mlx": None, "ollama": ollama})


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
    ],
)
def test_invalid_parent_is_none(header: str):
    assert to_trace_context({"traceparent": header}) is None


def test_parent_is_read_with_its_state():
    context = to_trace_context({"traceparent": PARENT, "tracestate": "vendor=1"})
    assert context is not None
    assert context.headers() == f"traceparent: {PARENT}\r\ntracestate: vendor=1\r\n".encode()


def test_state_that_is_no_header_is_dropped():
    context = to_trace_context({"traceparent": PARENT, "tracestate": "a=1\r\nx-evil: 1"})
    assert context is not None
    assert context.state == ""


async def test_parent_of_a_client_reaches_ollama():
    async with ollama_that_answers() as (server, config), named_client(None, config) as client:
        headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
        await client.post(CHAT, json=chat(model="smollm2:135m"), headers=headers)
        await client.post(CHAT, json=chat(model="smollm2:135m"))
        first, second = [seen.headers for seen in server.seen if seen.path == "/api/chat"]
    assert (first["traceparent"], first["tracestate"]) == (PARENT, "vendor=1")
    assert "traceparent" not in second


def closed(**fields: Any) -> Record:
    """The record of an answer on `ollama` after a failure of `mlx`, by a clock of whole seconds."""
    clock: Iterator[float] = iter(range(100))
    record = Record("POST", CHAT, clock=lambda: next(clock))
    record.model, record.status, record.agent = "m", 200, "Tester/1.0"
    record.operation = "chat"
    for name, value in fields.items():
        setattr(record, name, value)
    record.fall_back(record.attempt("mlx", "m"), BackendUnavailableError("down"))
    attempt = record.attempt("ollama", "m:1b")
    for event in (Started(), TextDelta("Hi"), Finished("stop", USAGE)):
        attempt.note(event)
    record.close()
    return record


def spans_of(record: Record) -> list[ReadableSpan]:
    """The spans of a record, the parents last."""
    exporter = InMemorySpanExporter()
    traces = Traces(lambda backend, _: (backend, "m"), exporter, "1.0")
    traces.read(record)
    traces.close()
    return list(exporter.get_finished_spans())


def test_answer_is_a_span_with_a_child_for_each_attempt():
    parent = to_trace_context({"traceparent": PARENT})
    assert parent is not None
    own = parent.child()
    *attempts, request = spans_of(closed(parent_span=parent, span=own))
    assert request.context is not None
    assert request.parent is not None
    assert (request.name, request.kind.name) == ("chat m", "SERVER")
    assert f"{request.context.trace_id:032x}" == TRACE
    assert (request.context.span_id, f"{request.parent.span_id:016x}") == (own.span_id, SPAN)
    assert [span.name for span in attempts] == ["mlx m", "ollama m:1b"]
    assert all(span.parent and span.parent.span_id == own.span_id for span in attempts)


def test_span_has_the_attributes_of_opentelemetry_and_no_prompt():
    *_, request = spans_of(closed(span=TraceContext(trace_id=1, span_id=2)))
    attributes = dict(request.attributes or {})
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "ollama"
    assert attributes["gen_ai.usage.input_tokens"] == 30
    assert attributes["gen_ai.usage.output_tokens"] == 2
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["tandem.fallback_from"] == "mlx; reason=backend_unavailable"
    assert "Hi" not in repr(attributes)


def test_attempts_have_the_times_of_the_record():
    failed, answered, request = spans_of(closed(span=TraceContext(trace_id=1, span_id=2)))
    assert failed.status.status_code.name == "ERROR"
    assert dict(failed.attributes or {})["error.type"] == "backend_unavailable"
    assert [event.name for event in answered.events] == ["admitted", "first_token"]
    assert answered.start_time is not None
    assert answered.end_time is not None
    assert answered.end_time - answered.start_time == 3_000_000_000
    assert request.end_time is not None
    assert request.start_time is not None
    assert request.end_time - request.start_time == 6_000_000_000


@pytest.mark.slow
def test_nothing_is_exported_unless_a_receiver_is_named():
    def listed(_backend: str, _name: str) -> None:
        return None

    assert open_traces(listed, {}) is None
    address = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    assert open_traces(listed, address | {"OTEL_SDK_DISABLED": "true"}) is None
    traces = open_traces(listed, address)
    assert traces is not None
    traces.close()
