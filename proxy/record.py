"""One answer of the server, from the arrival of its request to its end.

`Record` is filled on the way and closed once. Response headers, the request log, measurements,
estimates and the `performance` fields read it; no part observes the answer by itself.
"""

import random
import time
from collections.abc import Callable, MutableSet, Sequence
from functools import cached_property, partial
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.events import (
    Event,
    Finished,
    PromptProgress,
    Restarted,
    Started,
    Timings,
    Usage,
)
from adapters.upstream.trace_context import TraceContext
from proxy.access.grant import NOTHING, Grant
from proxy.errors import ClientDisconnectedError, ServerShutdownError, to_code

Outcome = Literal["ok", "error", "disconnected", "shutdown"]
ModelOperation = Literal["chat", "text_completion", "embeddings", "speech", "transcription"]
"""The first three are names of OpenTelemetry's conventions for generative AI."""
Clock = Callable[[], float]

_LONGEST_TEXT = 200
"""Characters of a path, or of the name of a model, in a summary."""


def new_id(prefix: str) -> str:
    """Create an id of `prefix` and 24 hexadecimal digits: unique, not secret, no system call."""
    return f"{prefix}{random.getrandbits(96):024x}"


class Attempt(Struct, eq=False):
    """One backend's work on one request. Times are seconds of `clock`."""

    backend: str
    """Its configured name."""
    model: str
    """The backend's own name of the model."""
    choices: int = 1
    clock: Clock = time.perf_counter
    began_at: float = 0.0
    """The time of its creation."""
    ready_at: float | None = None
    """The model was loaded and the request admitted."""
    first_at: float | None = None
    """The first piece of the answer came."""
    ended_at: float | None = None
    """The latest end of a choice so far."""
    cold: bool = False
    """The request waited for its model to be loaded."""
    context: int | None = None
    """Tokens that prompt and answer may have together."""
    ignored: tuple[str, ...] = ()
    """Paths of the parts of the request that the answer does without."""
    ungranted: tuple[str, ...] = ()
    """The wishes of the request that the backend or the model lacks."""
    template: tuple[str, ...] = ()
    """Names of what was done with the messages, see `Started.template`."""
    fingerprint: str | None = None
    """Engine, version and weights, as `BackendModels.fingerprint`."""
    restarted: bool = False
    """Another server of the backend restarted the answer: its times are not comparable."""
    concurrency: int = 1
    """Answers that the backend had in progress when this one began, itself included."""
    progress: PromptProgress | None = None
    """The latest report of how much of the prompt was read; `None` without one."""
    is_timed: bool = True
    """Its tokens come about one by one, so that their speed can be measured: not those of audio."""
    pieces: int = 0
    """Pieces of all choices so far: about one for each token."""
    finished: dict[int, Finished] = {}
    error: BackendError | None = None

    def __post_init__(self) -> None:
        self.began_at = self.clock()

    def note(self, event: Event) -> None:
        """Record `event`. Text after the first piece adds nothing."""
        match event:
            case Started():
                self.cold, self.context, self.ready_at = event.cold, event.context, self.clock()
                self.ignored, self.template = event.ignored, event.template
            case Restarted():
                self.restarted, self.context = True, event.context
                self.ready_at, self.first_at = self.clock(), None
                self.pieces = 0
            case PromptProgress():
                self.progress = event
            case Finished():
                self.finished[event.choice] = event
                self.ended_at = self.clock()
                self.first_at = self.first_at or self.ended_at
            case _:
                self.pieces += 1
                self.first_at = self.first_at or self.clock()

    @property
    def is_complete(self) -> bool:
        """Every choice has ended."""
        return len(self.finished) == self.choices

    @property
    def completion_tokens(self) -> int:
        return sum([end.usage.completion_tokens for end in self.finished.values()])

    @property
    def usage(self) -> Usage | None:
        """Tokens of all choices; of those that ended early what was read, and a token a piece.

        `None` where nothing is known, as of audio without its end.
        """
        if self.finished:
            first = self.finished[min(self.finished)].usage
            written = self.completion_tokens
            return replace(
                first,
                completion_tokens=written if self.is_complete else max(written, self.pieces),
            )
        if not self.is_timed or not (self.pieces or self.progress):
            return None
        read, cached = (self.progress.read, self.progress.cached) if self.progress else (0, None)
        return Usage(prompt_tokens=read, completion_tokens=self.pieces, cached_tokens=cached)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of all choices together; see `to_speed`."""
        if self.first_at is None or self.ended_at is None or not self.is_timed:
            return None
        seconds = max(self.ended_at - self.first_at, self.decode_s)
        return to_speed(self.completion_tokens, seconds)

    @property
    def decode_s(self) -> float:
        """Seconds from the first token to the last of the longest choice, by the engine's clock.

        The pieces of a call, or of an answer that is checked first, come at once after them. 0 if
        the engine reports none.
        """
        timings = [end.timings for end in self.finished.values() if end.timings is not None]
        return max([timing.answer / 1e9 for timing in timings], default=0.0)

    @property
    def ttft_s(self) -> float:
        """Seconds until the first token, also where its text came later."""
        first = self.began_at if self.first_at is None else self.first_at
        if self.ended_at is not None:
            first = min(first, self.ended_at - self.decode_s)
        return max(first - self.began_at, 0.0)


class Summary(Struct, frozen=True, kw_only=True):
    """An answer that has ended: a line of the request log. `None`: not known, or not applicable."""

    request_id: str
    method: str
    path: str
    """At most 200 characters, printable."""
    status: int | None
    """`None` where the client disconnected before the head of the answer was sent."""
    outcome: str
    """`ok`, `error`, `disconnected` or `shutdown`."""
    error: str | None
    """The code of the failure."""
    key: str | None
    """The name of the request's key."""
    model: str | None
    """The public name that the client asked for, at most 200 characters, printable."""
    backend: str
    fallback_from: str | None
    """`NAME; reason=CODE` of the backend that failed before."""
    streamed: bool
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    ttft_s: float | None
    """Seconds from the request's arrival to the first piece of the answer."""
    tokens_per_second: float | None
    total_s: float


class Record(Struct, eq=False, weakref=True, dict=True):
    """All that is known of one answer."""

    method: str = ""
    path: str = ""
    readers: Sequence[Callable[["Record"], None]] = ()
    """Called once, when the record is closed."""
    clock: Clock = time.perf_counter
    running: MutableSet["Record"] | None = None
    """The records that are not closed."""
    request_id: str = field(default_factory=partial(new_id, "req_"))
    arrived_at: float = 0.0
    """The time of the record's creation."""
    grant: Grant = NOTHING
    """The permissions of the request, once it was admitted."""
    parent_span: TraceContext | None = None
    """The client's span, by its header `traceparent`."""
    span: TraceContext | None = None
    """The span that is passed on to upstream servers: this server's own where it exports
    traces, else the client's."""
    agent: str = ""
    """The header `user-agent`."""
    address: str = ""
    """The client's IP address."""
    operation: ModelOperation | None = None
    """The work that a model is asked for; `None` for all else, such as a load."""
    model: str = ""
    """The public name in the request."""
    answer_id: str = ""
    """The id of the answer in its dialect, once `identify` was called."""
    created: int = 0
    """Seconds since 1970, as `answer_id`."""
    streamed: bool = False
    unknown: tuple[str, ...] = ()
    """Paths of request fields that no part of the server knows."""
    to_param: Callable[[str], str | None] = str
    """Translates a path of the contract to that in the body that the client sent."""
    attempts: list[Attempt] = []
    """In order; several if a backend failed, or the request has several prompts."""
    why: Callable[[], Sequence[str]] = tuple[str, ...]
    """Returns the reasons for the backend that was tried first, in sentences."""
    fallback_from: str | None = None
    """`NAME; reason=CODE` of the backend that failed before another was tried."""
    status: int | None = None
    """`None` until the head of the response is sent."""
    outcome: Outcome | None = None
    """`None` while the answer is in progress."""
    error: str | None = None
    """The code of the failure that ended it."""
    closed_at: float | None = None

    def __post_init__(self) -> None:
        self.arrived_at = self.clock()
        if self.running is not None:
            self.running.add(self)

    def identify(self, prefix: str) -> tuple[str, int]:
        """Return id and time of the answer, which are made by the first call."""
        if not self.answer_id:
            self.answer_id, self.created = new_id(prefix), int(time.time())
        return self.answer_id, self.created

    def detached(self) -> "Record":
        """Create a record of work that outlasts its request, with the same readers."""
        record = Record(self.method, self.path, self.readers, self.clock, self.running)
        record.agent, record.address = self.agent, self.address
        record.parent_span, record.span = self.parent_span, self.span
        record.model, record.unknown, record.streamed = self.model, self.unknown, self.streamed
        record.operation = self.operation
        record.grant = self.grant
        return record

    def attempt(self, backend: str, model: str, choices: int = 1) -> Attempt:
        """Begin an attempt on `backend`; `model` is its own name of the model."""
        attempt = Attempt(backend, model, choices, self.clock)
        self.attempts.append(attempt)
        return attempt

    def fall_back(self, failed: Attempt, error: BackendError) -> None:
        """Note that another backend is tried because `failed` ended with `error`."""
        failed.error = error
        self.fallback_from = f"{failed.backend}; reason={to_code(error)}"

    def fail(self, exc: BaseException, code: str | None) -> None:
        """Note the failure that ends the answer."""
        match exc:
            case ClientDisconnectedError():
                self.outcome = "disconnected"
            case ServerShutdownError():
                self.outcome = "shutdown"
            case _:
                self.outcome = "error"
        self.error = code

    def close(self) -> None:
        """End the record and call its readers; a second call does nothing."""
        if self.closed_at is not None:
            return
        self.closed_at = self.clock()
        if self.running is not None:
            self.running.discard(self)
        if self.outcome is None:
            ok = self.status is not None and self.status < 400
            self.outcome = "ok" if ok else "disconnected" if self.status is None else "error"
        for read in self.readers:
            read(self)

    @cached_property
    def summary(self) -> Summary:
        """The facts of bounded length that outlast the answer; read once the record is closed."""
        usage, first, speed = self.usage, self.first_token_s, self.tokens_per_second
        return Summary(
            request_id=self.request_id,
            method=self.method,
            path=_printable(self.path[:_LONGEST_TEXT]),
            status=self.status,
            outcome=self.outcome or "ok",
            error=self.error,
            key=self.grant.key,
            model=_printable(self.model[:_LONGEST_TEXT]) or None,
            backend=self.backend,
            fallback_from=self.fallback_from,
            streamed=self.streamed,
            prompt_tokens=usage.prompt_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            ttft_s=None if first is None else round(first, 4),
            tokens_per_second=None if speed is None else round(speed, 4),
            total_s=round((self.closed_at or self.clock()) - self.arrived_at, 4),
        )

    @property
    def backend(self) -> str:
        """The configured name of the backend of the last attempt; `none` before the first."""
        return self.attempts[-1].backend if self.attempts else "none"

    def has_begun(self) -> bool:
        """True once a backend has begun to answer: the request waits for no turn."""
        return any(attempt.ready_at is not None for attempt in self.attempts)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Paths of the parts of the request without effect: unknown, or not honoured in full."""
        reduced = [
            path for attempt in self._completed for path in (*attempt.ungranted, *attempt.ignored)
        ]
        return (*self.unknown, *dict.fromkeys(self.to_param(path) or path for path in reduced))

    @property
    def template(self) -> tuple[str, ...]:
        """Names of what was done with the messages so that the chat template takes them."""
        return tuple(dict.fromkeys(name for a in self._completed for name in a.template))

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the backend that was asked last; `None` before the first."""
        return self.attempts[-1].fingerprint if self.attempts else None

    @property
    def context(self) -> int | None:
        """Tokens that prompt and answer may have together; the least of several prompts."""
        known = [a.context for a in self.attempts if a.context is not None and a.error is None]
        return min(known, default=None)

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the arrival to the first piece of the answer that was sent."""
        first = min([a.first_at for a in self._completed if a.first_at is not None], default=None)
        return None if first is None else first - self.arrived_at

    @property
    def total_s(self) -> float:
        """Seconds from the arrival to the end of the last choice; before that, until now."""
        ends = [a.ended_at for a in self._completed if a.ended_at is not None]
        return max(ends, default=self.clock()) - self.arrived_at

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of all choices together; see `to_speed`."""
        first = self.first_token_s
        if first is None or not all(attempt.is_timed for attempt in self._completed):
            return None
        tokens = sum([attempt.completion_tokens for attempt in self._completed])
        decode = max([attempt.decode_s for attempt in self._completed])
        return to_speed(tokens, max(self.total_s - first, decode))

    @property
    def usage(self) -> Usage | None:
        """Tokens of all choices that have ended; a prompt counts once, for its first choice.

        `None` before the first choice has ended.
        """
        ended = [attempt.finished for attempt in self._completed if attempt.finished]
        if not ended:
            return None
        prompts = [choices[min(choices)].usage for choices in ended]
        usages = [finished.usage for choices in ended for finished in choices.values()]
        return Usage(
            prompt_tokens=sum([usage.prompt_tokens for usage in prompts]),
            completion_tokens=sum([usage.completion_tokens for usage in usages]),
            cached_tokens=_sum_known([usage.cached_tokens for usage in prompts]),
            reasoning_tokens=_sum_known([usage.reasoning_tokens for usage in usages]),
        )

    def timings(self, finished: Finished) -> Timings:
        """The engine's own timings; by this server's clock if the engine reports none.

        Load and prompt are not distinguished for an engine that is silent until its first token.
        """
        own = finished.timings
        if own is not None and own.load is not None:
            return own
        ready = self.attempts[-1].ready_at if self.attempts else None
        until_ready = self.total_s if ready is None else ready - self.arrived_at
        load = round(until_ready * 1e9)
        if own is not None:
            return replace(own, load=load)
        until_first = self.total_s if self.first_token_s is None else self.first_token_s
        return Timings(
            load=load,
            prompt=round((until_first - until_ready) * 1e9),
            answer=round((self.total_s - until_first) * 1e9),
        )

    @property
    def _completed(self) -> list[Attempt]:
        """The attempts that did not fail: their events went to the client."""
        return [attempt for attempt in self.attempts if attempt.error is None]


def _printable(text: str) -> str:
    """Return a text of a client that begins no line and controls no terminal."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else "?" for char in text])


def _sum_known(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def to_speed(tokens: int, seconds: float) -> float | None:
    """Tokens per second, `seconds` after the first piece; `None` if the answer came in one piece.

    The time of the first token is the prompt's.
    """
    return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else None
