"""Which of several places that can answer is asked: the one that was measured to be fastest.

What is not measured yet is tried a few times first. After that the place changes only for one that
is clearly faster, and not often: prompts that were read before are where they were read.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from proxy.memory.ledger import Key
from proxy.routing.candidates import Candidate
from proxy.routing.estimates import Estimates
from proxy.routing.incumbent import Incumbent
from proxy.routing.measurements import Bucket, Measurements, to_bucket
from proxy.routing.requirements import Requirements

Clock = Callable[[], float]
"""Seconds, of which only differences mean anything."""
BySpeed = Literal["trial", "fastest", "kept", "order"]
"""Why: it has to be measured first; it is the fastest; it is not, but nearly, or was taken only a
while ago; nobody was measured, and it comes first in order."""

_TRIALS = 4
"""Answers of each place before their speeds are compared …"""
_FEWER = 2
"""… and where answers much like these were measured already, or two are clear enough."""
_CLEARLY = 2.0
"""Times that the slowest takes longer than the fastest: chance makes no such difference."""
_AGAIN = 3600.0
"""Seconds after which a place that was not asked is tried once more: it may be faster now."""
_YARDSTICK = 100.0
"""Tokens of the answer by which a place is compared with itself."""
_HERE = (0, 0)
_BESIDE = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""Buckets whose figures may stand in, by their distance in crowd and prompt."""


class Spot(Struct, frozen=True):
    """Answers for which one choice holds."""

    deployments: tuple[Key, ...]
    bucket: Bucket


class Pick(Struct, frozen=True, kw_only=True):
    order: tuple[Candidate, ...]
    """The best first."""
    rule: BySpeed
    spot: Spot
    seconds: dict[str, float]
    """What the answer will take, by kind, as far as places were measured."""
    is_guess: bool = False
    """They were measured in answers beside those in question."""
    takes_over: bool = False
    """The first is now the one to stay with."""
    renews: bool = False
    """The one to stay with has slowed down: the others are tried anew."""
    pace: float | None = None
    """Seconds for `_YARDSTICK` tokens, of the one to stay with."""


class _Case(Struct, frozen=True, kw_only=True):
    """All that one pick is made of."""

    candidates: Sequence[Candidate]
    """Equal but for their speed, in the order of the backends."""
    buckets: Sequence[Bucket]
    """Where the answer would be counted, of each."""
    spot: Spot
    incumbent: Incumbent
    seconds: dict[str, float]
    is_guess: bool

    def pick(self, order: Sequence[Candidate], rule: BySpeed, *, takes_over: bool = False) -> Pick:
        return Pick(
            order=tuple(order),
            rule=rule,
            spot=self.spot,
            seconds=self.seconds,
            is_guess=self.is_guess,
            takes_over=takes_over,
        )


class Choice:
    def __init__(
        self, measurements: Measurements, estimates: Estimates, clock: Clock = time.monotonic
    ) -> None:
        self._measurements = measurements
        self._estimates = estimates
        self._clock = clock
        self._incumbents: dict[Spot, Incumbent] = {}

    def pick(self, candidates: Sequence[Candidate], requirements: Requirements) -> Pick:
        """Of `candidates`, which are equal but for their speed, in the order of the backends.
        Nothing is changed by asking: see `note`."""
        case = self._case(candidates, requirements)
        if (tried := self._untried(case)) is not None:
            return case.pick(_first(tried, candidates), "trial")
        return self._checked(case, self._fastest(case))

    def note(self, pick: Pick) -> None:
        """It is acted upon."""
        incumbent = self._incumbents.setdefault(pick.spot, Incumbent())
        kind, now = pick.order[0].deployment.backend, self._clock()
        if pick.renews:
            incumbent.renew(now)
        if pick.pace is not None:
            incumbent.add(pick.pace)
        if pick.rule != "trial":
            incumbent.is_open = False
        if pick.takes_over:
            incumbent.take(kind, now, is_guess=pick.is_guess)
        incumbent.ask(kind, now)

    def _case(self, candidates: Sequence[Candidate], requirements: Requirements) -> _Case:
        keys = tuple(candidate.key for candidate in candidates)
        own = sum(self._measurements.in_hand(*key) for key in keys)
        tokens = max(candidate.tokens for candidate in candidates)
        spot = Spot(keys, to_bucket(tokens, own + 1))
        buckets = [self._bucket(key, tokens, own) for key in keys]
        answer = self._estimates.answer_tokens(keys, requirements)
        seconds, is_guess = self._seconds(keys, buckets, answer)
        return _Case(
            candidates=candidates,
            buckets=buckets,
            spot=spot,
            incumbent=self._incumbents.get(spot) or Incumbent(),
            seconds=seconds,
            is_guess=is_guess,
        )

    def _bucket(self, key: Key, tokens: int, own: int) -> Bucket:
        """As if all that this model has in hand were at that place."""
        others = self._measurements.in_hand(key[0]) - self._measurements.in_hand(*key)
        return to_bucket(tokens, others + own + 1)

    def _seconds(
        self, keys: Sequence[Key], buckets: Sequence[Bucket], answer: float
    ) -> tuple[dict[str, float], bool]:
        """By kind, from the nearest buckets where all were measured, else as many as possible; and
        whether those are other buckets than asked for."""
        best: dict[str, float] = {}
        for shift in (_HERE, *_BESIDE):
            found: dict[str, float] = {}
            for key, bucket in zip(keys, buckets, strict=True):
                if (seconds := self._expected(key, _moved(bucket, shift), answer)) is not None:
                    found[key[0]] = seconds
            if len(found) == len(keys):
                return found, shift != _HERE
            best = max(best, found, key=len)
        return best, True

    def _expected(self, key: Key, bucket: Bucket, answer: float) -> float | None:
        """Seconds for an answer of so many tokens."""
        figures = self._measurements.within(*key, bucket)
        if figures is None:
            return None
        speed = figures.tokens_per_second
        return figures.ttft_s + (answer / speed if speed else 0.0)

    def _untried(self, case: _Case) -> Candidate | None:
        """Who has to be measured, and costs nobody else's model its memory."""
        enough, long_ago = self._enough(case), self._clock() - _AGAIN
        asked, asked_at = case.incumbent.asked, case.incumbent.asked_at
        waiting = [
            each
            for each in case.candidates
            if each.is_at_hand
            and (
                asked[each.deployment.backend] < enough
                or asked_at[each.deployment.backend] < long_ago
            )
        ]
        return min(waiting, key=lambda each: asked[each.deployment.backend], default=None)

    def _enough(self, case: _Case) -> int:
        """Trials of each."""
        incumbent = case.incumbent
        if incumbent.was_renewed:  # Old figures count for less and less.
            return _TRIALS
        if incumbent.holder is not None:
            return _FEWER
        least = min(incumbent.asked[each.deployment.backend] for each in case.candidates)
        is_close = _FEWER <= least < _TRIALS
        return _FEWER if is_close and (_is_clear(case) or self._is_known_beside(case)) else _TRIALS

    def _is_known_beside(self, case: _Case) -> bool:
        """Whether all were measured in answers much like these."""
        return any(
            all(
                self._measurements.within(*each.key, _moved(bucket, shift)) is not None
                for each, bucket in zip(case.candidates, case.buckets, strict=True)
            )
            for shift in _BESIDE
        )

    def _fastest(self, case: _Case) -> Pick:
        """Of those that were measured; or the one to stay with."""
        seconds, incumbent = case.seconds, case.incumbent
        if not seconds:
            return case.pick(case.candidates, "order")
        order = sorted(
            case.candidates, key=lambda each: seconds.get(each.deployment.backend, float("inf"))
        )
        fastest, holder = order[0].deployment.backend, incumbent.holder
        held = next((each for each in order if each.deployment.backend == holder), None)
        if held is None or fastest == holder:
            # A holder that cannot answer this time is not given up for it.
            return case.pick(order, "fastest", takes_over=holder is None)
        if incumbent.may_change(seconds, self._clock()):
            return case.pick(order, "fastest", takes_over=True)
        return case.pick(_first(held, order), "kept")

    def _checked(self, case: _Case, pick: Pick) -> Pick:
        """`pick`; or another is tried, where the one that would stay is slower than it was."""
        first, *others = pick.order
        if first.deployment.backend != case.incumbent.holder:
            return pick
        bucket = case.buckets[case.candidates.index(first)]
        pick = replace(pick, pace=self._expected(first.key, bucket, _YARDSTICK))
        other = next((each for each in others if each.is_at_hand), None)
        if other is None or not case.incumbent.has_slowed(self._clock()):
            return pick
        return replace(pick, order=_first(other, pick.order), rule="trial", renews=True)


def _is_clear(case: _Case) -> bool:
    """Whether all were measured, and the fastest leaves no doubt."""
    times = case.seconds.values()
    return len(times) == len(case.candidates) and max(times) > _CLEARLY * min(times)


def _first(first: Candidate, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return (first, *(each for each in candidates if each is not first))


def _moved(bucket: Bucket, shift: tuple[int, int]) -> Bucket:
    return Bucket(bucket.prompt + shift[1], bucket.crowd + shift[0])
