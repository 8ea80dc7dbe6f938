"""The incumbent: the backend chosen for similar requests, and when to replace it."""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct, field

BETTER = 0.15
"""The share of the time that another backend has to save to replace the incumbent."""
SETTLED = 600.0
"""Seconds between two changes of the incumbent."""
_NEVER = float("-inf")
_SLOWER = 0.2
"""The slowdown of the incumbent after which the others are tried again …"""
_LASTING = 6
"""… if it lasts for this many consecutive answers: a single slow one is noise."""
_LONG_RUN = 0.02
"""The least weight of one answer in the incumbent's usual time."""


class Incumbent(Struct):
    """Backends are identified by name; all times are seconds of one clock."""

    holder: str | None = None
    """The backend in use."""
    changed_at: float = _NEVER
    requests: Counter[str] = field(default_factory=Counter[str])
    """The requests to each backend."""
    requested_at: dict[str, float] = field(default_factory=dict[str, float])
    """The time of the last request to each."""
    reopened_at: float = _NEVER
    is_open: bool = False
    """The others were just tried again: the fastest wins, by any margin."""
    samples: int = 0
    usual: float = 0.0
    """The mean of the holder's reference times, the newer ones weighted more in the long run."""
    slow: int = 0
    """Consecutive reference times that were clearly longer than usual."""

    @property
    def was_reopened(self) -> bool:
        return self.reopened_at > _NEVER

    def may_change(self, seconds: Mapping[str, float], now: float) -> bool:
        """True if the fastest backend may replace the holder; `seconds` are expected times."""
        if now - self.changed_at < SETTLED:
            return False
        own = seconds.get(self.holder or "", float("inf"))
        return min(seconds.values()) < (1 if self.is_open else 1 - BETTER) * own

    def has_slowed(self, now: float) -> bool:
        """True if the holder is slower than usual for good. False for `SETTLED` seconds after it
        was chosen or the others were tried."""
        since = now - max(self.changed_at, self.reopened_at)
        return since >= SETTLED and self.slow >= _LASTING

    def count_request(self, backend: str, now: float) -> None:
        self.requests[backend] += 1
        self.requested_at[backend] = now

    def add(self, seconds: float) -> None:
        """Add the holder's expected time for the reference answer, by its latest figures."""
        is_slow = self.samples > 0 and seconds > (1 + _SLOWER) * self.usual
        self.slow = self.slow + 1 if is_slow else 0
        self.samples += 1
        self.usual += max(1 / self.samples, _LONG_RUN) * (seconds - self.usual)

    def take(self, backend: str, now: float, *, is_guess: bool) -> None:
        """Make `backend` the holder."""
        # The first choice rests on few answers, a guess on answers of other buckets: both may be
        # corrected at once.
        self.changed_at = _NEVER if self.holder is None or is_guess else now
        self.holder, self.samples, self.slow = backend, 0, 0

    def reopen(self, now: float) -> None:
        """Have the others tried again; the holder's time now becomes the usual one."""
        own = {self.holder: self.requests[self.holder]} if self.holder else {}
        self.requests = Counter(own)
        self.reopened_at, self.samples, self.slow, self.is_open = now, 0, 0, True
