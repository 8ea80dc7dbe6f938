"""Requests in progress on Ollama's servers: counted by outcome, by server and by runner."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from msgspec import Struct, field

from adapters.errors import BackendError
from adapters.ollama.catalog import full_name


class RequestCounters:
    """The requests of a backend, on whichever server, by outcome: `Health.counters`."""

    def __init__(self) -> None:
        self.values = {"active": 0, "started": 0, "finished": 0, "cancelled": 0, "failed": 0}

    @contextmanager
    def track(self) -> Generator[None]:
        """Count one request, which ends with the block."""
        self.values["active"] += 1
        self.values["started"] += 1
        outcome = "cancelled"
        try:
            yield
            outcome = "finished"
        except BackendError:
            outcome = "failed"
            raise
        finally:
            self.values["active"] -= 1
            self.values[outcome] += 1


class InFlightByRunner(Struct):
    """The requests to one model, or to all models that share its runner."""

    name: str = ""
    """The model of the first of them."""
    requests: int = 0
    loads: int = 0
    """Requests that the model is being loaded for."""
    contexts: dict[int, int] = field(default_factory=dict[int, int])
    """`num_ctx` -> the requests that run with it, or wait for it."""
    used_at: float = 0.0
    """Time at which the last of them began or ended, by `time.monotonic`."""


class InFlight:
    """The requests in progress on one server."""

    def __init__(self, runner: Callable[[str], str] = full_name) -> None:
        """`runner` returns the same name for models that share a runner."""
        self._runner = runner
        self.requests = 0
        self.answers = 0
        """Requests with an answer that has begun."""
        self._by_runner: dict[str, InFlightByRunner] = {}

    def of(self, model: str) -> InFlightByRunner:
        runner = self._runner(model)
        if runner not in self._by_runner:
            self._by_runner[runner] = InFlightByRunner()
        return self._by_runner[runner]

    def loading(self) -> list[str]:
        """List the models that requests wait for, until their first line; one for a runner."""
        return [each.name for each in self._by_runner.values() if each.loads]

    def name_of(self, model: str) -> str:
        """Return the name that `model` is loaded under: that of the first request to its runner."""
        requests = self.of(model)
        return requests.name if requests.requests else full_name(model)

    def longest_context(self, model: str) -> int | None:
        """Return the longest `num_ctx` in use: with less, Ollama would load the model twice."""
        return max(self.of(model).contexts, default=None)


class InFlightRequest:
    """One request to one server; `end` must be called."""

    def __init__(self, all_requests: InFlight, model: str) -> None:
        self._all = all_requests
        self._same_runner = all_requests.of(model)
        self.cold = False
        """The model had to be loaded."""
        self._context: int | None = None
        self._loads = False
        self._is_answered = False
        if not self._same_runner.requests:
            self._same_runner.name = full_name(model)
        all_requests.requests += 1
        self._same_runner.requests += 1
        self._same_runner.used_at = time.monotonic()

    def take(self, context: int) -> None:
        """Note the `num_ctx` it is sent with; again, where a smaller one was refused."""
        self._leave()
        contexts = self._same_runner.contexts
        contexts[context] = contexts.get(context, 0) + 1
        self._context = context

    def wait(self, *, cold: bool) -> None:
        """Wait for the first line; `cold`: the model has to be loaded."""
        self.cold, self._loads = self.cold or cold, cold
        self._same_runner.loads += cold

    def begin(self) -> None:
        """Note the first line: the model is loaded."""
        self._end_load()
        self._all.answers += not self._is_answered
        self._is_answered = True

    def end(self) -> None:
        self._leave()
        self._all.answers -= self._is_answered
        self._all.requests -= 1
        self._same_runner.requests -= 1
        self._same_runner.used_at = time.monotonic()

    def _end_load(self) -> None:
        self._same_runner.loads -= self._loads
        self._loads = False

    def _leave(self) -> None:
        """Leave the requests of the same runner."""
        self._end_load()
        if self._context is None:
            return
        contexts = self._same_runner.contexts
        contexts[self._context] -= 1
        if not contexts[self._context]:
            del contexts[self._context]
        self._context = None
