"""Measurements of each backend and model: time to first token, tokens per second, memory.

Every complete answer is recorded; one that fails or is cancelled is not.
"""

import bisect
import time
from collections import Counter
from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.structs import asdict

from proxy.models.registry import Deployment
from proxy.record import Attempt

PROMPTS = (128, 512, 2048, 8192, 32768)
"""The longest prompt of each bucket, in tokens; one more bucket is for longer ones."""
CROWDS = (1, 4, 8)
"""The same for the concurrent answers of a backend."""
_NEWEST = 0.25
"""The weight of the newest answer in a mean; the first few have equal weights, so that an
exceptional first one does not dominate."""

MemoryOf = Callable[[str, str], int | None]
"""A backend's name and its own name of a model -> the bytes that the model uses, if known."""


class Measurement(Struct, frozen=True, kw_only=True):
    """One answer, all its choices together."""

    backend: str
    name: str
    """The backend's own name of the model."""
    prompt_tokens: int
    completion_tokens: int = 0
    crowd: int
    """The backend's concurrent answers when this one began, itself included."""
    ttft: float
    """Seconds to the first token, including queueing and loading."""
    cold: bool = False
    """The model had to be loaded first."""
    tokens_per_second: float | None
    """From the first token to the end; `None` if the answer arrived in one piece."""
    memory: int | None
    """Bytes that the model used, by the last look."""


class Bucket(Struct, frozen=True, order=True):
    """A class of comparable answers: indices into `PROMPTS` and `CROWDS`, and whether the model
    had to be loaded."""

    prompt: int
    crowd: int
    cold: bool = False


class Figures(Struct, frozen=True, kw_only=True):
    """The figures of a bucket: means weighted towards the newer answers."""

    answers: int
    ttft_s: float
    tokens_per_second: float | None
    memory_bytes: int | None
    measured_at: int
    """Seconds since 1970."""


_NO_ANSWER = Figures(
    answers=0, ttft_s=0.0, tokens_per_second=None, memory_bytes=None, measured_at=0
)


class Row(Figures, frozen=True, kw_only=True):
    """The figures of one backend in one bucket."""

    backend: str
    name: str
    prompt_tokens_to: int | None
    """The longest prompt of the bucket, in tokens; `None`: unlimited."""
    answers_at_once_to: int | None
    cold: bool


class Measurements:
    def __init__(
        self,
        memory_of: MemoryOf = lambda _backend, _name: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.memory_of = memory_of
        self.clock = clock
        self._figures: dict[tuple[str, str], dict[Bucket, Figures]] = {}
        self._in_hand: Counter[tuple[str, str]] = Counter()

    def begin(self, key: tuple[str, str]) -> int:
        """Count one more answer in progress; returns how many its backend has now."""
        self._in_hand[key] += 1
        return self.in_hand(key[0])

    def end(self, key: tuple[str, str]) -> None:
        self._in_hand[key] -= 1

    def read(self, attempt: Attempt) -> None:
        """Record an attempt that has ended every choice, and was not restarted on the way."""
        if attempt.is_complete and not attempt.restarted:
            memory = self.memory_of(attempt.backend, attempt.model)
            self.record(to_measurement(attempt, memory))

    def record(self, measurement: Measurement) -> None:
        figures = self._figures.setdefault((measurement.backend, measurement.name), {})
        bucket = to_bucket(measurement.prompt_tokens, measurement.crowd, measurement.cold)
        known = figures.get(bucket, _NO_ANSWER)
        share = max(_NEWEST, 1 / (known.answers + 1))
        figures[bucket] = Figures(
            answers=known.answers + 1,
            ttft_s=(1 - share) * known.ttft_s + share * measurement.ttft,
            tokens_per_second=_mean(known.tokens_per_second, measurement.tokens_per_second, share),
            memory_bytes=known.memory_bytes if measurement.memory is None else measurement.memory,
            measured_at=int(time.time()),
        )

    def figures(self, backend: str, name: str, prompt_tokens: int, crowd: int) -> Figures | None:
        """The figures for such an answer by a loaded model; `None`: not measured yet."""
        return self.within(backend, name, to_bucket(prompt_tokens, crowd))

    def within(self, backend: str, name: str, bucket: Bucket) -> Figures | None:
        return self._figures.get((backend, name), {}).get(bucket)

    def in_hand(self, backend: str, name: str | None = None) -> int:
        """The answers of `backend` in progress: of all its models, or of `name`."""
        if name is not None:
            return self._in_hand[backend, name]
        return sum([count for (owner, _), count in self._in_hand.items() if owner == backend])

    def comparison(self, deployments: Iterable[Deployment]) -> list[Row]:
        """The figures of `deployments` of one model, ordered by bucket."""
        rows = [
            (bucket, _to_row(deployment, bucket, figures))
            for deployment in deployments
            for bucket, figures in self._figures.get(
                (deployment.backend, deployment.name), {}
            ).items()
        ]
        return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def to_measurement(attempt: Attempt, memory: int | None) -> Measurement:
    """Measure an attempt that is complete; `memory` are the bytes that its model takes."""
    ends = list(attempt.finished.values())
    return Measurement(
        backend=attempt.backend,
        name=attempt.model,
        prompt_tokens=ends[0].usage.prompt_tokens,
        completion_tokens=attempt.completion_tokens,
        crowd=attempt.concurrency,
        ttft=attempt.ttft_s,
        cold=attempt.cold,
        tokens_per_second=attempt.tokens_per_second,
        memory=memory,
    )


def to_bucket(prompt_tokens: int, crowd: int, cold: bool = False) -> Bucket:
    prompt = bisect.bisect_left(PROMPTS, prompt_tokens)
    return Bucket(prompt, bisect.bisect_left(CROWDS, crowd), cold)


def _mean(known: float | None, newest: float | None, share: float) -> float | None:
    if known is None or newest is None:
        return newest if known is None else known
    return (1 - share) * known + share * newest


def limits(bucket: Bucket) -> tuple[int | None, int | None]:
    """The longest prompt, in tokens, and the most concurrent answers; `None`: unlimited."""
    return _limit(PROMPTS, bucket.prompt), _limit(CROWDS, bucket.crowd)


def _to_row(deployment: Deployment, bucket: Bucket, figures: Figures) -> Row:
    prompt_tokens_to, answers_at_once_to = limits(bucket)
    return Row(
        backend=deployment.backend,
        name=deployment.name,
        prompt_tokens_to=prompt_tokens_to,
        answers_at_once_to=answers_at_once_to,
        cold=bucket.cold,
        **asdict(figures),
    )


def _limit(limits: tuple[int, ...], index: int) -> int | None:
    return limits[index] if index < len(limits) else None
