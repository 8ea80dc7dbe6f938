"""Choose the fastest of several equivalent candidates, by measured speed.

Candidates without measurements are tried a few times first. After that the incumbent is replaced
only by one that is clearly faster, and rarely: its prefix cache holds the earlier prompts.
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
"""Seconds, of which only differences are used."""
SpeedRule = Literal["trial", "fastest", "kept", "order"]
"""The reason for a choice: the first has to be measured; it is the fastest; it is the incumbent,
nearly as fast or chosen recently; nothing is measured, and it comes first in order."""

_TRIALS = 4
"""Answers of each candidate before speeds are compared …"""
_FEWER_TRIALS = 2
"""… or fewer, if similar answers were measured already, or the difference is clear."""
_CLEAR_FACTOR = 2.0
"""A difference in time between slowest and fastest that chance does not explain."""
_RETRY_SECONDS = 3600.0
"""Seconds without a request after which a candidate is tried again: it may be faster by now."""
_REFERENCE_TOKENS = 100.0
"""Length of the answer by which the incumbent is compared with its own past."""
_SAME = (0, 0)
_ADJACENT = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""Buckets with figures that may be used instead, as (crowd, prompt) offsets."""


class SpeedContext(Struct, frozen=True):
    """The requests that share one incumbent."""

    deployments: tuple[Key, ...]
    bucket: Bucket


class SpeedChoice(Struct, frozen=True, kw_only=True):
    order: tuple[Candidate, ...]
    """The best first."""
    rule: SpeedRule
    context: SpeedContext
    seconds: dict[str, float]
    """Expected seconds of the answer, by backend, for the candidates with measurements."""
    is_guess: bool = False
    """The measurements are of an adjacent bucket."""
    takes_over: bool = False
    """The first becomes the incumbent."""
    reopens: bool = False
    """The incumbent has slowed down: the others are tried again."""
    reference_seconds: float | None = None
    """The incumbent's expected time for `_REFERENCE_TOKENS` tokens."""


class _Comparison(Struct, frozen=True, kw_only=True):
    """The inputs of one choice."""

    candidates: Sequence[Candidate]
    """Equal but for their speed, in the order of the backends."""
    buckets: Sequence[Bucket]
    """The bucket that the answer would be recorded in, for each candidate."""
    context: SpeedContext
    incumbent: Incumbent
    seconds: dict[str, float]
    is_guess: bool

    def choose(
        self, order: Sequence[Candidate], rule: SpeedRule, *, takes_over: bool = False
    ) -> SpeedChoice:
        return SpeedChoice(
            order=tuple(order),
            rule=rule,
            context=self.context,
            seconds=self.seconds,
            is_guess=self.is_guess,
            takes_over=takes_over,
        )


class SpeedChooser:
    def __init__(
        self, measurements: Measurements, estimates: Estimates, clock: Clock = time.monotonic
    ) -> None:
        self._measurements = measurements
        self._estimates = estimates
        self._clock = clock
        self._incumbents: dict[SpeedContext, Incumbent] = {}

    def choose(self, candidates: Sequence[Candidate], requirements: Requirements) -> SpeedChoice:
        """Order `candidates`, which are equal but for their speed, in the order of the backends.
        Has no effect on later choices: see `note`."""
        comparison = self._compare(candidates, requirements)
        if (trial := self._next_trial(comparison)) is not None:
            return comparison.choose(_with_first(trial, candidates), "trial")
        return self._checked(comparison, self._fastest(comparison))

    def note(self, choice: SpeedChoice) -> None:
        """Record that a request follows `choice`."""
        incumbent = self._incumbents.setdefault(choice.context, Incumbent())
        backend, now = choice.order[0].deployment.backend, self._clock()
        if choice.reopens:
            incumbent.reopen(now)
        if choice.reference_seconds is not None:
            incumbent.add(choice.reference_seconds)
        if choice.rule != "trial":
            incumbent.is_open = False
        if choice.takes_over:
            incumbent.take(backend, now, is_guess=choice.is_guess)
        incumbent.count_request(backend, now)

    def _compare(self, candidates: Sequence[Candidate], requirements: Requirements) -> _Comparison:
        keys = tuple(candidate.key for candidate in candidates)
        own = sum(self._measurements.in_hand(*key) for key in keys)
        tokens = max(candidate.tokens for candidate in candidates)
        context = SpeedContext(keys, to_bucket(tokens, own + 1))
        buckets = [self._bucket(key, tokens, own) for key in keys]
        answer = self._estimates.answer_tokens(keys, requirements)
        seconds, is_guess = self._seconds(keys, buckets, answer)
        return _Comparison(
            candidates=candidates,
            buckets=buckets,
            context=context,
            incumbent=self._incumbents.get(context) or Incumbent(),
            seconds=seconds,
            is_guess=is_guess,
        )

    def _bucket(self, key: Key, tokens: int, own: int) -> Bucket:
        """The bucket if all `own` requests of the model in progress were on that backend."""
        others = self._measurements.in_hand(key[0]) - self._measurements.in_hand(*key)
        return to_bucket(tokens, others + own + 1)

    def _seconds(
        self, keys: Sequence[Key], buckets: Sequence[Bucket], answer: float
    ) -> tuple[dict[str, float], bool]:
        """Expected seconds by backend, from the nearest buckets with figures for all, else for as
        many as possible; and whether those are adjacent buckets."""
        best: dict[str, float] = {}
        for shift in (_SAME, *_ADJACENT):
            seconds = {
                key[0]: expected
                for key, bucket in zip(keys, buckets, strict=True)
                if (expected := self._expected(key, _shifted(bucket, shift), answer)) is not None
            }
            if len(seconds) == len(keys):
                return seconds, shift != _SAME
            best = max(best, seconds, key=len)
        return best, True

    def _expected(self, key: Key, bucket: Bucket, answer: float) -> float | None:
        """Expected seconds for an answer of `answer` tokens."""
        figures = self._measurements.within(*key, bucket)
        if figures is None:
            return None
        speed = figures.tokens_per_second
        return figures.ttft_s + (answer / speed if speed else 0.0)

    def _next_trial(self, comparison: _Comparison) -> Candidate | None:
        """The candidate with the fewest trials that has to be measured and evicts no model."""
        incumbent = comparison.incumbent
        trials, long_ago = self._trials(comparison), self._clock() - _RETRY_SECONDS

        def is_due(backend: str) -> bool:
            few = incumbent.requests[backend] < trials
            return few or incumbent.requested_at[backend] < long_ago

        due = [
            c for c in comparison.candidates if c.evicts_nothing and is_due(c.deployment.backend)
        ]
        return min(due, key=lambda c: incumbent.requests[c.deployment.backend], default=None)

    def _trials(self, comparison: _Comparison) -> int:
        """The number of trials for each candidate."""
        incumbent = comparison.incumbent
        if incumbent.was_reopened:  # It takes several answers to outweigh old figures.
            return _TRIALS
        if incumbent.holder is not None:
            return _FEWER_TRIALS
        least = min(incumbent.requests[c.deployment.backend] for c in comparison.candidates)
        times = comparison.seconds.values()
        are_all_known = len(times) == len(comparison.candidates)
        is_clear = are_all_known and max(times) > _CLEAR_FACTOR * min(times)
        is_enough = _FEWER_TRIALS <= least < _TRIALS and (
            is_clear or self._is_known_nearby(comparison)
        )
        return _FEWER_TRIALS if is_enough else _TRIALS

    def _is_known_nearby(self, comparison: _Comparison) -> bool:
        """True if an adjacent bucket has figures for all candidates."""
        return any(
            all(
                self._measurements.within(*candidate.key, _shifted(bucket, shift)) is not None
                for candidate, bucket in zip(comparison.candidates, comparison.buckets, strict=True)
            )
            for shift in _ADJACENT
        )

    def _fastest(self, comparison: _Comparison) -> SpeedChoice:
        """The fastest candidate by measurements, or the incumbent."""
        seconds, incumbent = comparison.seconds, comparison.incumbent
        if not seconds:
            return comparison.choose(comparison.candidates, "order")
        order = sorted(
            comparison.candidates, key=lambda c: seconds.get(c.deployment.backend, float("inf"))
        )
        holder = next((c for c in order if c.deployment.backend == incumbent.holder), None)
        if holder is None or holder is order[0]:
            # An incumbent that cannot answer this request is not replaced for it.
            return comparison.choose(order, "fastest", takes_over=incumbent.holder is None)
        if incumbent.may_change(seconds, self._clock()):
            return comparison.choose(order, "fastest", takes_over=True)
        return comparison.choose(_with_first(holder, order), "kept")

    def _checked(self, comparison: _Comparison, choice: SpeedChoice) -> SpeedChoice:
        """`choice`, or a trial of another candidate if the incumbent has slowed down."""
        first, *others = choice.order
        if first.deployment.backend != comparison.incumbent.holder:
            return choice
        bucket = comparison.buckets[comparison.candidates.index(first)]
        expected = self._expected(first.key, bucket, _REFERENCE_TOKENS)
        choice = replace(choice, reference_seconds=expected)
        other = next((candidate for candidate in others if candidate.evicts_nothing), None)
        if other is None or not comparison.incumbent.has_slowed(self._clock()):
            return choice
        order = _with_first(other, choice.order)
        return replace(choice, order=order, rule="trial", reopens=True)


def _with_first(first: Candidate, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return (first, *(candidate for candidate in candidates if candidate is not first))


def _shifted(bucket: Bucket, shift: tuple[int, int]) -> Bucket:
    return Bucket(bucket.prompt + shift[1], bucket.crowd + shift[0])
