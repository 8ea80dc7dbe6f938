"""What was chosen for answers of one kind, and what has become of it: when to change one's mind."""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct, field

BETTER = 0.15
"""The share of the time that another place has to save."""
SETTLED = 600.0
"""Seconds between two changes of place."""
_NEVER = float("-inf")
_SLOWER = 0.2
"""By which the place that is stayed with has slowed down when the others are tried anew …"""
_LASTING = 6
"""… and for how many answers on end: one that was slow is none."""
_LONG_RUN = 0.02
"""What an answer counts for in what is usual for that place."""


class Incumbent(Struct):
    """Places are called by their kind; all times are seconds of one clock."""

    holder: str | None = None
    """The place that is stayed with."""
    changed_at: float = _NEVER
    asked: Counter[str] = field(default_factory=Counter[str])
    asked_at: dict[str, float] = field(default_factory=dict[str, float])
    renewed_at: float = _NEVER
    is_open: bool = False
    """The others have just been tried anew: the fastest is taken, by however little."""
    paces: int = 0
    usual: float = 0.0
    """The mean of so many paces of the holder, the newer ones counting for more in the end."""
    slow: int = 0
    """Paces on end that were clearly slower."""

    @property
    def was_renewed(self) -> bool:
        return self.renewed_at > _NEVER

    def may_change(self, seconds: Mapping[str, float], now: float) -> bool:
        """To the fastest of those that take `seconds`."""
        if now - self.changed_at < SETTLED:
            return False
        own = seconds.get(self.holder or "", float("inf"))
        return min(seconds.values()) < (1 if self.is_open else 1 - BETTER) * own

    def has_slowed(self, now: float) -> bool:
        """The holder, for good; not a short while after it was taken, or its rivals were tried."""
        since = now - max(self.changed_at, self.renewed_at)
        return since >= SETTLED and self.slow >= _LASTING

    def ask(self, kind: str, now: float) -> None:
        self.asked[kind] += 1
        self.asked_at[kind] = now

    def add(self, pace: float) -> None:
        """The holder takes `pace` seconds for an answer of a certain length, by its last ones."""
        self.slow = self.slow + 1 if self.paces and pace > (1 + _SLOWER) * self.usual else 0
        self.paces += 1
        self.usual += max(1 / self.paces, _LONG_RUN) * (pace - self.usual)

    def take(self, kind: str, now: float, *, is_guess: bool) -> None:
        """From now on `kind` is stayed with."""
        # The first choice is made of few answers, a guess of others: they may be put right at once.
        self.changed_at = _NEVER if self.holder is None or is_guess else now
        self.holder, self.paces, self.slow = kind, 0, 0

    def renew(self, now: float) -> None:
        """All but the holder are to be measured again; what it does now is what is usual."""
        self.asked = Counter({self.holder: self.asked[self.holder]} if self.holder else {})
        self.renewed_at, self.paces, self.slow, self.is_open = now, 0, 0, True
