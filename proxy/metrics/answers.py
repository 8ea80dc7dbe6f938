"""Counters and histograms of answers, read from their records.

Names and buckets of `gen_ai_*` are those of OpenTelemetry's conventions for generative AI, written
as Prometheus writes them. Labels are bounded: a model is a listed one or `other`.

Source: https://github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai/gen-ai-metrics.md)
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram

from proxy.record import Attempt, Record

OTHER = "other"
"""The label of a model that no backend lists, such as the path of a folder."""
NO_ERROR = ""

_DURATION = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_GEN_AI = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
)
Listed = Callable[[str, str], tuple[str, str] | None]
"""A backend's name and its own name of a model -> the kind of backend and the model's public id;
`None` for a model that is not listed."""


class AnswerMetrics:
    """Reads the record of each answer that has ended."""

    def __init__(self, registry: CollectorRegistry, listed: Listed) -> None:
        self._listed = listed
        by_model = ("backend", "model")

        def counter(name: str, text: str, labels: tuple[str, ...] = by_model) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *more: str) -> Histogram:
            return Histogram(name, text, (*_GEN_AI, *more), buckets=buckets, registry=registry)

        self._requests = counter(
            "tandem_requests_total",
            "Requests for answers of models that have ended, by outcome and code of the error.",
            ("backend", "model", "outcome", "error"),
        )
        self._fallbacks = counter(
            "tandem_fallbacks_total",
            "Requests that another backend took over, by the one that failed and the code.",
            ("backend", "error"),
        )
        self._cold = counter(
            "tandem_cold_starts_total", "Answers that waited for their model to be loaded."
        )
        self._prompt = counter("tandem_prompt_tokens_total", "Tokens of prompts.")
        self._cached = counter(
            "tandem_cached_prompt_tokens_total", "Tokens of prompts that were in a cache."
        )
        self._completion = counter("tandem_completion_tokens_total", "Tokens of answers.")
        self._duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            _DURATION,
            "error_type",
        )
        self._first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request's arrival to the first piece of its answer.",
            _FIRST_TOKEN,
        )
        self._per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time for each token of an answer after the first one.",
            _PER_TOKEN,
        )

    def read(self, record: Record) -> None:
        """Count one request for the work of a model that has ended."""
        if record.operation is None:
            return
        attempt = record.attempts[-1] if record.attempts else None
        backend, kind, model = self._labels(attempt)
        error = record.error or NO_ERROR
        self._requests.labels(backend, model, record.outcome or "ok", error).inc()
        if record.fallback_from is not None:
            failed, _, reason = record.fallback_from.partition("; reason=")
            self._fallbacks.labels(failed, reason).inc()
        for each in record.attempts:
            self._count(each)
        labels = (record.operation, kind, model, model)
        total = (record.closed_at or record.clock()) - record.arrived_at
        self._duration.labels(*labels, error).observe(total)
        if record.outcome == "ok":
            self._observe_tokens(record, labels)

    def _count(self, attempt: Attempt) -> None:
        backend, _, model = self._labels(attempt)
        if attempt.cold:
            self._cold.labels(backend, model).inc()
        if (usage := attempt.usage) is None:
            return
        self._prompt.labels(backend, model).inc(usage.prompt_tokens)
        self._cached.labels(backend, model).inc(usage.cached_tokens or 0)
        self._completion.labels(backend, model).inc(usage.completion_tokens)

    def _observe_tokens(self, record: Record, labels: tuple[str, ...]) -> None:
        if (first := record.first_token_s) is not None:
            self._first_token.labels(*labels).observe(first)
        if speed := record.tokens_per_second:
            self._per_token.labels(*labels).observe(1 / speed)

    def _labels(self, attempt: Attempt | None) -> tuple[str, str, str]:
        """Return the labels of backend, kind and model."""
        if attempt is None:
            return "none", "none", OTHER
        listed = self._listed(attempt.backend, attempt.model)
        kind, model = listed if listed is not None else (attempt.backend, OTHER)
        return attempt.backend, kind, model
