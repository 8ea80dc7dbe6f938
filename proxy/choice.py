"""Which of several places that can answer is asked: the one that was measured to be fastest.

What is not measured yet is tried a few times first. After that the place changes only for one that
is clearly faster, and not often: prompts that were read before are where they were read.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from proxy.candidates import Candidate
from proxy.demand import Demand
from proxy.habits import Habits
from proxy.ledger import Key
from proxy.measurements import Bucket, Measurements, to_bucket

Clock = Callable[[], float]
"""Seconds, of which only differences mean anything."""
BySpeed = Literal["trial", "fastest", "kept", "order"]
"""Why: it has to be measured first; it is the fastest; it is not, but nearly, or was taken only a
while ago; nobody was measured, and it comes first in order."""

_TRIALS = 4
"""Answers of each place before their speeds are compared …"""
_TRIALS_BESIDE = 2
"""… and where answers much like these were measured already."""
_BETTER = 0.15
"""The share of the time that another place has to save."""
_SETTLED = 600.0
"""Seconds between two changes of place."""
_AGAIN = 3600.0
"""Seconds after which a place that was not asked is tried once more: it may be faster now."""
_SLOWER = 0.2
"""By which the place that is stayed with has slowed down when the others are tried anew …"""
_LASTING = 6
"""… and for how many answers on end: one that was slow is none."""
_LONG_RUN = 0.02
"""What an answer counts for in what is usual for that place."""
_YARDSTICK = 100.0
"""Tokens of the answer by which a place is compared with itself."""
_NEAR = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))
"""Buckets whose figures may stand in, by their distance in crowd and prompt."""


class Spot(Struct, frozen=True):
    """Answers for which one choice holds."""

    places: tuple[Key, ...]
    bucket: Bucket


class Pick(Struct, frozen=True, kw_only=True):
    order: tuple[Candidate, ...]
    """The best first."""
    rule: BySpeed
    spot: Spot
    seconds: dict[str, float] = {}
    """What the answer will take, by kind, as far as places were measured."""
    takes_over: bool = False
    """The first is now the one to stay with."""
    renews: bool = False
    """The one to stay with has slowed down: the others are tried anew."""
    pace: float | None = None
    """Seconds for `_YARDSTICK` tokens, of the one to stay with."""


class _Standing(Struct):
    """What was chosen at a spot."""

    holder: str | None = None
    """The kind that is stayed with."""
    changed_at: float = float("-inf")
    asked: Counter[str] = field(default_factory=Counter[str])
    asked_at: dict[str, float] = field(default_factory=dict[str, float])
    renewed_at: float = float("-inf")
    is_open: bool = False
    """The others have just been tried anew: the fastest is taken, by however little."""
    paces: int = 0
    usual: float = 0.0
    """The mean of so many paces, the newer ones counting for more in the end."""
    slow: int = 0
    """Paces on end that were clearly slower."""

    def add(self, pace: float) -> None:
        self.slow = self.slow + 1 if self.paces and pace > (1 + _SLOWER) * self.usual else 0
        self.paces += 1
        self.usual += max(1 / self.paces, _LONG_RUN) * (pace - self.usual)

    def renew(self, now: float) -> None:
        """All but the holder are to be measured again; what it does now is what is usual."""
        self.asked = Counter({self.holder: self.asked[self.holder]} if self.holder else {})
        self.renewed_at, self.paces, self.slow, self.is_open = now, 0, 0, True


class Choice:
    def __init__(
        self, measurements: Measurements, habits: Habits, clock: Clock = time.monotonic
    ) -> None:
        self._measurements = measurements
        self._habits = habits
        self._clock = clock
        self._standings: dict[Spot, _Standing] = {}

    def pick(self, candidates: Sequence[Candidate], demand: Demand) -> Pick:
        """Of `candidates`, which are equal but for their speed, in the order of the backends.
        Nothing is changed by asking: see `note`."""
        keys = tuple(candidate.key for candidate in candidates)
        own = sum(self._measurements.in_hand(*key) for key in keys)
        tokens = max(candidate.tokens for candidate in candidates)
        spot = Spot(keys, to_bucket(tokens, own + 1))
        standing = self._standings.get(spot) or _Standing()
        buckets = [self._bucket(key, tokens, own) for key in keys]
        answer = self._habits.answer_tokens(keys, demand)
        seconds = self._seconds(keys, buckets, answer)
        if (tried := self._untried(candidates, standing, buckets)) is not None:
            return Pick(order=_first(tried, candidates), rule="trial", spot=spot, seconds=seconds)
        pick = self._fastest(candidates, spot, standing, seconds)
        return self._checked(pick, standing, dict(zip(keys, buckets, strict=True)))

    def note(self, pick: Pick) -> None:
        """It is acted upon."""
        standing = self._standings.setdefault(pick.spot, _Standing())
        kind, now = pick.order[0].place.kind, self._clock()
        if pick.renews:
            standing.renew(now)
        if pick.pace is not None:
            standing.add(pick.pace)
        standing.asked[kind] += 1
        standing.asked_at[kind] = now
        if pick.rule != "trial":
            standing.is_open = False
        if pick.takes_over:
            # The first choice may be put right at once: it was made of few answers.
            standing.changed_at = now if standing.holder is not None else float("-inf")
            standing.holder, standing.paces, standing.slow = kind, 0, 0

    def _bucket(self, key: Key, tokens: int, own: int) -> Bucket:
        """Where the answer would be counted, if all this model has in hand were at that place."""
        others = self._measurements.in_hand(key[0]) - self._measurements.in_hand(*key)
        return to_bucket(tokens, others + own + 1)

    def _seconds(
        self, keys: Sequence[Key], buckets: Sequence[Bucket], answer: float
    ) -> dict[str, float]:
        """By kind, from the nearest buckets where all were measured, else as many as possible."""
        best: dict[str, float] = {}
        for shift in _NEAR:
            found: dict[str, float] = {}
            for key, bucket in zip(keys, buckets, strict=True):
                if (seconds := self._expected(key, _moved(bucket, shift), answer)) is not None:
                    found[key[0]] = seconds
            if len(found) == len(keys):
                return found
            best = max(best, found, key=len)
        return best

    def _expected(self, key: Key, bucket: Bucket, answer: float) -> float | None:
        figures = self._measurements.within(*key, bucket)
        if figures is None:
            return None
        speed = figures.tokens_per_second
        return figures.ttft_s + (answer / speed if speed else 0.0)

    def _untried(
        self, candidates: Sequence[Candidate], standing: _Standing, buckets: Sequence[Bucket]
    ) -> Candidate | None:
        """Who has to be measured, and costs nobody else's model its memory."""
        enough, long_ago = self._enough(candidates, standing, buckets), self._clock() - _AGAIN
        asked, asked_at = standing.asked, standing.asked_at
        waiting = [
            each
            for each in candidates
            if each.is_at_hand
            and (asked[each.place.kind] < enough or asked_at[each.place.kind] < long_ago)
        ]
        return min(waiting, key=lambda each: asked[each.place.kind], default=None)

    def _enough(
        self, candidates: Sequence[Candidate], standing: _Standing, buckets: Sequence[Bucket]
    ) -> int:
        """Trials of each."""
        least = min(standing.asked[each.place.kind] for each in candidates)
        is_first = standing.renewed_at == float("-inf")
        if is_first and least in range(_TRIALS_BESIDE, _TRIALS) and self._near(candidates, buckets):
            return _TRIALS_BESIDE
        return _TRIALS

    def _near(self, candidates: Sequence[Candidate], buckets: Sequence[Bucket]) -> bool:
        """Whether all were measured in answers beside those."""
        return any(
            all(
                self._measurements.within(*each.key, _moved(bucket, shift)) is not None
                for each, bucket in zip(candidates, buckets, strict=True)
            )
            for shift in _NEAR[1:]
        )

    def _fastest(
        self,
        candidates: Sequence[Candidate],
        spot: Spot,
        standing: _Standing,
        seconds: dict[str, float],
    ) -> Pick:
        if not seconds:
            return Pick(order=tuple(candidates), rule="order", spot=spot)
        by_speed = sorted(candidates, key=lambda each: seconds.get(each.place.kind, float("inf")))
        fastest, holder = by_speed[0].place.kind, standing.holder
        held = next((each for each in candidates if each.place.kind == holder), None)
        if held is not None and fastest != holder and not self._may_change(standing, seconds):
            order = _first(held, by_speed)
            return Pick(order=order, rule="kept", spot=spot, seconds=seconds)
        return Pick(
            order=tuple(by_speed),
            rule="fastest",
            spot=spot,
            seconds=seconds,
            # A holder that cannot answer this time is not given up for it.
            takes_over=fastest != holder and (holder is None or held is not None),
        )

    def _checked(self, pick: Pick, standing: _Standing, buckets: dict[Key, Bucket]) -> Pick:
        """`pick`; or another is tried, where the one that would stay is slower than it was."""
        first, *others = pick.order
        if first.place.kind != standing.holder:
            return pick
        pace = self._expected(first.key, buckets[first.key], _YARDSTICK)
        pick = replace(pick, pace=pace)
        other = next((each for each in others if each.is_at_hand), None)
        if other is None or not self._has_slowed(standing):
            return pick
        return replace(pick, order=_first(other, pick.order), rule="trial", renews=True)

    def _has_slowed(self, standing: _Standing) -> bool:
        """For good, and not where it was taken, or its rivals were tried, a short while ago."""
        since = self._clock() - max(standing.changed_at, standing.renewed_at)
        return since >= _SETTLED and standing.slow >= _LASTING

    def _may_change(self, standing: _Standing, seconds: dict[str, float]) -> bool:
        """To the fastest of all."""
        if self._clock() - standing.changed_at < _SETTLED:
            return False
        now = seconds.get(standing.holder or "", float("inf"))
        return min(seconds.values()) < (1 if standing.is_open else 1 - _BETTER) * now


def _first(first: Candidate, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return (first, *(each for each in candidates if each is not first))


def _moved(bucket: Bucket, shift: tuple[int, int]) -> Bucket:
    return Bucket(bucket.prompt + shift[1], bucket.crowd + shift[0])
