"""Gauges of the server's state, collected when Prometheus asks for them.

Three of them are those that the Gateway API Inference Extension reads of a model server: requests
that wait, requests that run, and the part of the KV cache in use.

Source: https://github.com/kubernetes-sigs/gateway-api-inference-extension
(docs/proposals/003-model-server-protocol)
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from adapters.backend import Health
from proxy.live import Running
from proxy.memory.budget import Snapshot

_KV_BYTES, _KV_LIMIT = "kv_bytes", "kv_limit_bytes"
"""Counters of `Health` of a backend that has a KV cache of its own."""


class ServerState(Struct, frozen=True, kw_only=True):
    """Facts that are known at a scrape."""

    version: str
    health: Mapping[str, Health]
    """Health by the backend's name."""
    memory: Snapshot
    running: list[Running]
    names: Mapping[tuple[str, str], str]
    """A backend's name and its own name of a model -> the label of the model; others are left
    out."""
    loaded: Mapping[tuple[str, str], bool]
    """Listed models; those of a backend that does not report it are left out."""


class StateMetrics(Collector):
    """The gauges of one scrape."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield _gauge("tandem_info", "The version.", ("version",), {(self._state.version,): 1})
        yield from self._backends()
        yield from self._requests()
        yield from self._memory()

    def _backends(self) -> Iterator[GaugeMetricFamily]:
        health = self._state.health
        ok = {(name,): float(each.ok) for name, each in health.items()}
        is_open = {(name,): float(each.breaker != "closed") for name, each in health.items()}
        yield _gauge("tandem_backend_up", "1 if the backend is well.", ("backend",), ok)
        yield _gauge(
            "tandem_backend_breaker_open",
            "1 while the backend is avoided because it keeps failing.",
            ("backend",),
            is_open,
        )
        loaded = {self._label(key): float(value) for key, value in self._state.loaded.items()}
        yield _gauge("tandem_model_loaded", "1 if the model is loaded.", _BY_MODEL, loaded)

    def _requests(self) -> Iterator[GaugeMetricFamily]:
        keys = [(run.backend, run.engine_model or "") for run in self._state.running]
        runs = list(zip(map(self._label, keys), self._state.running, strict=True))
        running = Counter(key for key, run in runs if run.state in _ADMITTED)
        waiting = Counter(key for key, run in runs if run.state not in _ADMITTED)
        yield _gauge(
            "tandem_requests_running", "Requests that are read or answered.", _BY_MODEL, running
        )
        yield _gauge(
            "tandem_requests_waiting",
            "Requests that wait for a place, a load or the engine.",
            _BY_MODEL,
            waiting,
        )
        yield GaugeMetricFamily(
            "tandem_num_requests_running",
            "Requests that are read or answered, on all backends.",
            running.total(),
        )
        yield GaugeMetricFamily(
            "tandem_num_requests_waiting", "Requests that wait, on all backends.", waiting.total()
        )
        yield GaugeMetricFamily(
            "tandem_kv_cache_usage_ratio",
            "Part of the memory for keys and values in use, 0 to 1; the fullest backend's.",
            max(map(_kv_usage, self._state.health.values()), default=0.0),
        )

    def _memory(self) -> Iterator[GaugeMetricFamily]:
        memory = self._state.memory
        yield GaugeMetricFamily(
            "tandem_memory_budget_bytes", "The budget for models and caches.", memory.budget
        )
        yield GaugeMetricFamily(
            "tandem_memory_used_bytes", "Memory of models and caches.", memory.used
        )
        sizes: dict[tuple[str, ...], float] = {}
        for each in memory.models:
            total = (each.weights or 0) + (each.context or 0) + each.cache
            key = self._label((each.backend, each.model))
            sizes[key] = sizes.get(key, 0) + total
        yield _gauge(
            "tandem_model_memory_bytes", "Memory of a model and its caches.", _BY_MODEL, sizes
        )

    def _label(self, key: tuple[str, str]) -> tuple[str, str]:
        return key[0], self._state.names.get(key, "other")


_BY_MODEL = ("backend", "model")
_ADMITTED = frozenset({"reading", "writing"})


def _gauge(
    name: str, text: str, labels: Iterable[str], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _kv_usage(health: Health) -> float:
    limit = health.counters.get(_KV_LIMIT, 0)
    return min(1.0, health.counters.get(_KV_BYTES, 0) / limit) if limit else 0.0
