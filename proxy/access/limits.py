"""Limits of one key: requests and tokens a minute, and answers in progress.

Requests and tokens are buckets that refill evenly. A request takes its place when it arrives; the
tokens of an answer are taken when they are known, so that a bucket may owe tokens, and the average
holds. Source of the headers' names and forms:
https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from proxy.errors import RateLimitError

Headers = Sequence[tuple[bytes, bytes]]

_MINUTE = 60.0
_BUSY_SECONDS = 1.0
"""After which a request beyond `concurrent` is worth another try."""


class Bucket:
    """Holds `per_minute` units, and gains as many in a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._units = float(per_minute)
        self._at = clock()

    @property
    def units(self) -> float:
        """Units that are there; negative if units are owed."""
        now = self._clock()
        gained = (now - self._at) * self.per_minute / _MINUTE
        self._units, self._at = min(self.per_minute, self._units + gained), now
        return self._units

    def take(self, units: float) -> None:
        self._units = self.units - units

    def change(self, per_minute: int) -> None:
        """Set another limit; what was taken stays taken."""
        self._units = self.units + per_minute - self.per_minute
        self.per_minute = per_minute

    def seconds_until(self, units: float) -> float:
        """Seconds until `units` are there, if none are taken."""
        return max(0.0, units - self.units) * _MINUTE / self.per_minute

    def headers(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        values = {
            "limit": str(self.per_minute),
            "remaining": str(max(0, math.floor(self.units))),
            "reset": to_duration(self.seconds_until(self.per_minute)),
        }
        for kind, value in values.items():
            yield f"x-ratelimit-{kind}-{name}".encode(), value.encode()


class Limits:
    """The limits of one key, and what was used of them."""

    def __init__(
        self,
        key: str = "",
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        concurrent: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`key` is its name; a limit that is `None` does not exist."""
        self._key = key
        per_minute = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._buckets = {
            name: Bucket(limit, clock) for name, limit in per_minute.items() if limit is not None
        }
        self._concurrent = concurrent
        self._running: set[object] = set()
        """Stands for the answers in progress."""

    def resume(self, earlier: "Limits") -> None:
        """Go on with what was used of `earlier`, the limits of the same key before a reload."""
        self._running = earlier._running
        for name in self._buckets.keys() & earlier._buckets.keys():
            bucket = earlier._buckets[name]  # Answers in progress take their tokens from it.
            bucket.change(self._buckets[name].per_minute)
            self._buckets[name] = bucket

    @property
    def counts_tokens(self) -> bool:
        return "tokens" in self._buckets

    def take_request(self) -> None:
        """Count a request.

        Raises:
            RateLimitError: it is one too many, and not counted.
        """
        if (bucket := self._buckets.get("requests")) is not None:
            self._require(bucket, "requests")
            bucket.take(1)

    @contextmanager
    def answer_in_progress(self) -> Generator[None]:
        """Count an answer as in progress; raises as `require_room`."""
        self.require_room()
        answer = object()
        self._running.add(answer)
        try:
            yield
        finally:
            self._running.remove(answer)

    def require_room(self) -> None:
        """Check that an answer may begin now.

        Raises:
            RateLimitError: too many are in progress, or no tokens are left.
        """
        if (bucket := self._buckets.get("tokens")) is not None:
            self._require(bucket, "tokens")
        if self._concurrent is not None and len(self._running) >= self._concurrent:
            raise RateLimitError(
                "requests",
                f"Rate limit reached for the key '{self._key}' on concurrent answers: Limit "
                f"{self._concurrent}. Try again when an answer has ended.",
                _BUSY_SECONDS,
            )

    def take_tokens(self, tokens: int) -> None:
        """Count the tokens of an answer, which may exceed what is left."""
        if (bucket := self._buckets.get("tokens")) is not None:
            bucket.take(tokens)

    def headers(self) -> Headers:
        """Headers of a response: the limit, what is left of it, and when all of it is back."""
        return [pair for name, bucket in self._buckets.items() for pair in bucket.headers(name)]

    def _require(self, bucket: Bucket, name: Literal["requests", "tokens"]) -> None:
        """Require a whole unit."""
        wait = bucket.seconds_until(1)
        if wait > 0:
            raise RateLimitError(
                name,
                f"Rate limit reached for the key '{self._key}' on {name} per min: Limit "
                f"{bucket.per_minute}. Please try again in {to_duration(wait)}.",
                wait,
            )


def to_duration(seconds: float) -> str:
    """Format as OpenAI's headers do: `850ms`, `12.5s`, `1m30s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, _MINUTE)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{text}s" if minutes else f"{text}s"


UNLIMITED = Limits()
