"""The tokens of an answer, counted for its key, also where the answer ends early."""

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext

from adapters.events import Event, Finished, Restarted, Started
from adapters.request import GenerationRequest
from adapters.sink import Sink
from proxy.access.limits import Limits
from proxy.record import Record
from proxy.routing.requirements import to_requirements

_BYTES_A_TOKEN = 4
"""Bytes of English text in a token, roughly."""


@contextmanager
def metered(
    limits: Limits,
    sink: Sink,
    requests: Sequence[GenerationRequest],
    record: Record,
    *,
    is_counted: bool = False,
) -> Generator[Sink]:
    """Count an answer while it is in progress, and its tokens at its end.

    Yields the sink to write the answer to. `is_counted`: it is counted as in progress already.

    Raises:
        RateLimitError: as `Limits.answer`.
    """
    with nullcontext() if is_counted else limits.answer_in_progress():
        if not limits.counts_tokens:
            yield sink
            return
        before = _total(record)
        meter = _Meter(sink)
        try:
            yield meter
        finally:
            counted = _total(record) - before
            if not counted and meter.started:
                counted = sum(map(_estimate, requests))
            limits.take_tokens(counted + meter.unfinished)


@contextmanager
def metered_audio(limits: Limits, record: Record, unfinished: int) -> Generator[None]:
    """Count the tokens of an answer of audio; one that ends early has `unfinished` of them."""
    try:
        yield
    finally:
        if record.has_begun():
            limits.take_tokens(_total(record) or unfinished)


class _Meter:
    """Passes events on, and counts the pieces of unfinished choices: about a token each."""

    def __init__(self, sink: Sink) -> None:
        self._pass_on = sink.write
        self.drain = sink.drain
        self.started = False
        self._pieces: Counter[int] = Counter()

    def write(self, event: Event, /) -> bool:
        if isinstance(event, Finished):
            del self._pieces[event.choice]
        elif isinstance(event, Started | Restarted):
            self.started = True
        else:
            self._pieces[event.choice] += 1
        return self._pass_on(event)

    @property
    def unfinished(self) -> int:
        """Tokens of answers without an end."""
        return self._pieces.total()


def _total(record: Record) -> int:
    usage = record.usage
    return 0 if usage is None else usage.prompt_tokens + usage.completion_tokens


def _estimate(request: GenerationRequest) -> int:
    """Estimate the tokens of a prompt that no engine has counted to its end."""
    needed = to_requirements(request)
    return needed.prompt_bytes // _BYTES_A_TOKEN + needed.prompt_tokens
