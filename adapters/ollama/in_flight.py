"""What one Ollama is doing for us: counted of each request, from before it is sent to its end."""

import time
from collections.abc import Callable

from msgspec import Struct, field

from adapters.ollama.catalog import full_name


class InFlightByRunner(Struct):
    """Of the requests on their way to one model, or to all that share a runner with it."""

    name: str = ""
    """That of the first of them."""
    requests: int = 0
    loads: int = 0
    """Those that it is being loaded for."""
    contexts: dict[int, int] = field(default_factory=dict[int, int])
    """Tokens -> the requests that run with so many, or still wait for theirs."""
    used_at: float = 0.0
    """When one of them came or went, by `time.monotonic`."""


class InFlight:
    def __init__(self, runner: Callable[[str], str] = full_name) -> None:
        """`runner` is the same for models that one runner answers for."""
        self._runner = runner
        self.requests = 0
        self.answers = 0
        """The requests whose answer has begun."""
        self._tallies: dict[str, InFlightByRunner] = {}

    def of(self, model: str) -> InFlightByRunner:
        runner = self._runner(model)
        if runner not in self._tallies:
            self._tallies[runner] = InFlightByRunner()
        return self._tallies[runner]

    def name_of(self, model: str) -> str:
        """What is being loaded for it: the first that needs its runner gives that its name."""
        tally = self.of(model)
        return tally.name if tally.requests else full_name(model)

    def longest_context(self, model: str) -> int | None:
        """Nobody asks for less, which would make Ollama load the model twice."""
        return max(self.of(model).contexts, default=None)


class InFlightRequest:
    """One request; who makes it ends it."""

    def __init__(self, work: InFlight, model: str) -> None:
        self._work = work
        self._tally = work.of(model)
        self._context: int | None = None
        self._loads = False
        self._is_answered = False
        if not self._tally.requests:
            self._tally.name = full_name(model)
        work.requests += 1
        self._tally.requests += 1
        self._tally.used_at = time.monotonic()

    def take(self, context: int) -> None:
        """It is to run with so many tokens; again, where it was refused with less."""
        self._leave()
        contexts = self._tally.contexts
        contexts[context] = contexts.get(context, 0) + 1
        self._context = context

    def wait(self, *, cold: bool) -> None:
        """For the first line; `cold`: the model has to be loaded for it."""
        self._loads = cold
        self._tally.loads += cold

    def begin(self) -> None:
        """The first line is there, and with it the model."""
        self._loaded()
        self._is_answered = True
        self._work.answers += 1

    def end(self) -> None:
        self._leave()
        self._work.answers -= self._is_answered
        self._work.requests -= 1
        self._tally.requests -= 1
        self._tally.used_at = time.monotonic()

    def _loaded(self) -> None:
        self._tally.loads -= self._loads
        self._loads = False

    def _leave(self) -> None:
        """The place in the model's tally."""
        self._loaded()
        if self._context is None:
            return
        contexts = self._tally.contexts
        contexts[self._context] -= 1
        if not contexts[self._context]:
            del contexts[self._context]
        self._context = None
