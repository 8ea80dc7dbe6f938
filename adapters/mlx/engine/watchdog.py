"""Watchdog of the engine: models that keep failing, and steps that hang."""

from collections import deque
from collections.abc import Callable

from adapters.errors import GenerationError

_FAILURES, _FAILURE_SECONDS = 3, 60.0
"""A model with so many failed steps within so many seconds is not used until it is reloaded."""


class Watchdog:
    """Written on the engine's thread, read on the event loop."""

    def __init__(self, stall_seconds: float, clock: Callable[[], float]) -> None:
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._failures: dict[str, deque[float]] = {}
        self.failed: set[str] = set()
        self._stepping_since: float | None = None

    def begin_step(self) -> None:
        """Start timing a step, or a piece of a job, such as an array that is read from a disk."""
        self._stepping_since = self._clock()

    def end_steps(self) -> None:
        self._stepping_since = None

    def note_failure(self, model: str) -> bool:
        """Count a failed step of `model`; true if it is not to be used any more."""
        now = self._clock()
        failures = self._failures.setdefault(model, deque(maxlen=_FAILURES))
        failures.append(now)
        if len(failures) == _FAILURES and now - failures[0] < _FAILURE_SECONDS:
            self.failed.add(model)
        return model in self.failed

    def forget(self, model: str) -> None:
        self.failed.discard(model)
        self._failures.pop(model, None)

    def require_working(self, model: str) -> None:
        """
        Raises:
            GenerationError: the model failed too often, and has to be loaded anew.
        """
        if model in self.failed:
            raise GenerationError(
                f"'{model}' failed {_FAILURES} times within a minute; unload it to try again.",
                lasting=True,
            )

    def trouble(self) -> str | None:
        """Describe what is wrong with the engine; `None` while nothing is."""
        if self.failed:
            return f"Failed, to be unloaded and loaded anew: {', '.join(sorted(self.failed))}."
        return self.stall()

    def stall(self) -> str | None:
        """Describe the stall of the engine; `None` while it goes on."""
        if not self.is_stalled():
            return None
        return f"Stalled: no step has ended for more than {self._stall_seconds:g} seconds."

    def is_well(self, model: str) -> bool:
        return model not in self.failed and not self.is_stalled()

    def is_stalled(self) -> bool:
        """Return true while a step, or a piece of a load, takes longer than `stall_seconds`."""
        since = self._stepping_since
        return since is not None and self._clock() - since > self._stall_seconds
