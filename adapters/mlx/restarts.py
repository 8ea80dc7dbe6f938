"""Circuit breaker of an engine that ends unexpectedly: growing pauses between its starts."""

from collections.abc import Callable

from adapters.backend import BreakerState
from adapters.errors import BackendUnavailableError

_ENDS = 3
"""So many ends without a success between them open the breaker."""
_LONGEST_REST = 30.0
"""Seconds for which it stays open at most, after 1, 2, 4, …: requests are refused at once, or go to
another backend."""


class Restarts:
    """Written where an engine ends, read on the event loop; assignments need no lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reason = ""
        self._ends = 0
        """Ends since the last success."""
        self._ready_at = 0.0
        self.total = 0

    def note_end(self, reason: str) -> None:
        """Count an end; `reason` is a sentence for users."""
        self._reason = reason
        self._ends += 1
        self.total += 1
        rest = min(2.0 ** (self._ends - _ENDS), _LONGEST_REST) if self._ends >= _ENDS else 0.0
        self._ready_at = self._clock() + rest

    def note_success(self) -> None:
        """Note an answer, which closes the breaker; a load alone proves little."""
        self._ends = 0

    @property
    def breaker(self) -> BreakerState:
        if not self._ends:
            return "closed"
        return "open" if self._rest() > 0 else "half-open"

    def trouble(self) -> str | None:
        """Describe the latest end; `None` after a success."""
        if not self._ends:
            return None
        rest = self._rest()
        after = f"It is left alone for {rest:.0f} s." if rest > 0 else "It is started anew."
        return f"{self._reason} {after}"

    def require_ready(self) -> None:
        """
        Raises:
            BackendUnavailableError: it ended too often to be started now.
        """
        if (rest := self._rest()) > 0:
            raise BackendUnavailableError(self._reason, retry_after=rest)

    def _rest(self) -> float:
        """Return the seconds until the next start; 0 or less: now."""
        return self._ready_at - self._clock() if self._ends >= _ENDS else 0.0
