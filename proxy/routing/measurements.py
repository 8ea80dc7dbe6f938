"""What each backend did for each model: how soon it began, how fast it went, what it took.

Every answer that comes to its end leaves a measurement; one that fails or is given up leaves none.
"""

import bisect
import time
from collections import Counter
from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.structs import asdict

from adapters.events import Event, Finished, Restarted, Started
from adapters.request import GenerationRequest
from proxy.models.registry import Deployment

PROMPTS = (128, 512, 2048, 8192, 32768)
"""The longest prompt of each bucket, in tokens; what is longer is in one more."""
CROWDS = (1, 4, 8)
"""The same for the answers that a backend has in hand at once."""
_NEWEST = 0.25
"""What the newest answer counts for in a figure, all that came before share the rest; the first
few count for the same, so that a lucky first one is soon forgotten."""

MemoryOf = Callable[[str, str], int | None]
"""A backend's kind and its own name of a model -> the bytes that the model takes, if known."""


class Measurement(Struct, frozen=True, kw_only=True):
    """One answer, all its choices together."""

    backend: str
    name: str
    """The backend's own, of the model."""
    prompt_tokens: int
    completion_tokens: int = 0
    crowd: int
    """The answers that the backend had in hand when this one began, itself included."""
    ttft: float
    """Seconds to the first piece of it, loading and waiting included."""
    cold: bool = False
    """The model had to be loaded first."""
    tokens_per_second: float | None
    """From the first piece to the end; `None` where it came in one piece."""
    memory: int | None
    """Bytes that the model took, when that was last looked at."""


class Bucket(Struct, frozen=True, order=True):
    """Answers that may be compared: their places in `PROMPTS` and `CROWDS`, and who waited for a
    load or did not."""

    prompt: int
    crowd: int
    cold: bool = False


class Figures(Struct, frozen=True, kw_only=True):
    """The answers of a bucket: means in which the newer ones count for more."""

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
    """What a backend did in answers of one bucket."""

    backend: str
    name: str
    prompt_tokens_to: int | None
    """The longest prompt of the bucket; `None`: there is none."""
    answers_at_once_to: int | None
    cold: bool


class Measurements:
    def __init__(
        self,
        memory_of: MemoryOf = lambda _kind, _name: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.memory_of = memory_of
        self.clock = clock
        self._figures: dict[tuple[str, str], dict[Bucket, Figures]] = {}
        self._in_hand: Counter[tuple[str, str]] = Counter()

    def begin(self, key: tuple[str, str]) -> int:
        """Have one more in hand; how many its backend has then."""
        self._in_hand[key] += 1
        return self.in_hand(key[0])

    def end(self, key: tuple[str, str]) -> None:
        self._in_hand[key] -= 1

    def record(self, measured: Measurement) -> None:
        figures = self._figures.setdefault((measured.backend, measured.name), {})
        bucket = to_bucket(measured.prompt_tokens, measured.crowd, measured.cold)
        figures[bucket] = _with(figures.get(bucket, _NO_ANSWER), measured)

    def figures(self, backend: str, name: str, prompt_tokens: int, crowd: int) -> Figures | None:
        """Of answers like that one by a model that was loaded; `None`: there was none yet."""
        return self.within(backend, name, to_bucket(prompt_tokens, crowd))

    def within(self, backend: str, name: str, bucket: Bucket) -> Figures | None:
        return self._figures.get((backend, name), {}).get(bucket)

    def in_hand(self, backend: str, name: str | None = None) -> int:
        """The answers on their way from `backend`: of all its models, or of `name`."""
        if name is not None:
            return self._in_hand[backend, name]
        return sum([many for (kind, _), many in self._in_hand.items() if kind == backend])

    def comparison(self, deployments: Iterable[Deployment]) -> list[Row]:
        """What is known of a model that has these `deployments`, bucket by bucket, side by side."""
        rows = [
            row
            for deployment in deployments
            for row in self._rows(deployment.backend, deployment.name)
        ]
        return [row for _, row in sorted(rows, key=lambda each: each[0])]

    def _rows(self, backend: str, name: str) -> Iterable[tuple[Bucket, Row]]:
        for bucket, figures in self._figures.get((backend, name), {}).items():
            yield bucket, _to_row(backend, name, bucket, figures)


class Watch:
    """The times of one answer, from now on."""

    cold = False
    first: float | None = None
    """When the first piece came."""
    is_content = False
    """The first piece was shown: of those that follow only the last is wanted."""
    _last = 0.0
    _is_mended = False

    def __init__(self, choices: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._choices = choices
        self._clock = clock
        self._began = clock()
        self._ended: list[Finished] = []

    def see(self, event: Event) -> None:
        if isinstance(event, Started):
            self.cold = event.cold
            return
        if isinstance(event, Restarted):
            self._is_mended = True
            return
        now = self._clock()
        self.first = self.first or now
        if isinstance(event, Finished):
            self._ended.append(event)
            self._last = now
        else:
            self.is_content = True

    @property
    def is_whole(self) -> bool:
        """Each choice has come to its end, and at the first go: else its times say nothing."""
        return len(self._ended) == self._choices and not self._is_mended

    def measurement(self, backend: str, name: str, crowd: int, memory_of: MemoryOf) -> Measurement:
        """Of an answer that is whole."""
        first = self.first or self._last
        tokens = sum([each.usage.completion_tokens for each in self._ended])
        return Measurement(
            backend=backend,
            name=name,
            prompt_tokens=self._ended[0].usage.prompt_tokens,
            completion_tokens=tokens,
            crowd=crowd,
            ttft=first - self._began,
            cold=self.cold,
            tokens_per_second=to_speed(tokens, self._last - first),
            memory=memory_of(backend, name),
        )


class Watching(Watch):
    """The watch of an answer that is in hand, and recorded once it is whole."""

    def __init__(
        self, measurements: Measurements, key: tuple[str, str], request: GenerationRequest
    ) -> None:
        super().__init__(request.n, measurements.clock)
        self._measurements = measurements
        self._key = key
        # What begins with its own prompt begins before anything was read.
        self._is_told = not request.echo
        self._crowd = 0

    def __enter__(self) -> Watch:
        self._crowd = self._measurements.begin(self._key)
        return self

    def __exit__(self, *_: object) -> None:
        measurements = self._measurements
        measurements.end(self._key)
        if self.is_whole and self._is_told:
            measured = self.measurement(*self._key, self._crowd, measurements.memory_of)
            measurements.record(measured)


def to_speed(tokens: int, seconds: float) -> float | None:
    """Tokens a second, of so many `seconds` after the first piece; `None` where the answer came in
    one. The first token's time is the prompt's."""
    return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else None


def to_bucket(prompt_tokens: int, crowd: int, cold: bool = False) -> Bucket:
    prompt = bisect.bisect_left(PROMPTS, prompt_tokens)
    return Bucket(prompt, bisect.bisect_left(CROWDS, crowd), cold)


def _with(known: Figures, measured: Measurement) -> Figures:
    share = max(_NEWEST, 1 / (known.answers + 1))
    return Figures(
        answers=known.answers + 1,
        ttft_s=(1 - share) * known.ttft_s + share * measured.ttft,
        tokens_per_second=_mean(known.tokens_per_second, measured.tokens_per_second, share),
        memory_bytes=known.memory_bytes if measured.memory is None else measured.memory,
        measured_at=int(time.time()),
    )


def _mean(known: float | None, newest: float | None, share: float) -> float | None:
    if known is None or newest is None:
        return newest if known is None else known
    return (1 - share) * known + share * newest


def limits(bucket: Bucket) -> tuple[int | None, int | None]:
    """The longest prompt and the most answers at once of it; `None`: there is no limit."""
    return _limit(PROMPTS, bucket.prompt), _limit(CROWDS, bucket.crowd)


def _to_row(backend: str, name: str, bucket: Bucket, figures: Figures) -> Row:
    prompt_tokens_to, answers_at_once_to = limits(bucket)
    return Row(
        backend=backend,
        name=name,
        prompt_tokens_to=prompt_tokens_to,
        answers_at_once_to=answers_at_once_to,
        cold=bucket.cold,
        **asdict(figures),
    )


def _limit(limits: tuple[int, ...], deployment: int) -> int | None:
    return limits[deployment] if deployment < len(limits) else None
