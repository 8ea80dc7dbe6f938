"""Requests in progress, and those that ended lately: what the page shows.

Nothing is computed while no page is open, except a short summary when an answer ends.
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict

from adapters.backend import Progress
from proxy.models.registry import BackendModels
from proxy.record import Attempt, Record, Summary

State = Literal["preparing", "queued", "loading", "waiting", "reading", "writing"]
"""`preparing`: no backend is chosen yet. `queued`: the engine has not admitted the request.
`waiting`: the engine, which does not report more, queues it or reads the prompt."""
_LONGEST = 200
"""Characters of a name that is shown."""
_HISTORY = 200
_ADMITTING = frozenset({"mlx"})
"""Kinds of backends that write `Started` when they admit a request, not with its first token."""


class Running(Struct, frozen=True, kw_only=True):
    """A request in progress."""

    request_id: str
    path: str
    model: str
    """The public name."""
    client: str
    """The header `user-agent`."""
    address: str
    """The client's IP address."""
    key: str | None
    """The name of the request's key."""
    backend: str
    engine_model: str | None
    """The backend's own name of the model."""
    why: list[str]
    """The reasons for the backend, in sentences."""
    fallback_from: str | None
    streamed: bool
    state: State
    elapsed_s: float
    loading: float | None
    """The part of the model that is loaded, 0 to 1; `None`: not known, or not being loaded."""
    prompt_tokens: int | None
    prompt_read: int | None
    cached_tokens: int | None
    written: int
    """Pieces of the answer so far: about one for each token. Two reports give the speed."""


class Ended(Summary, frozen=True, kw_only=True):
    """A request that has ended."""

    client: str
    address: str
    why: list[str]
    cold: bool
    """It waited for its model to be loaded."""
    ended_at: float
    """Seconds since 1970."""


class Live:
    """Requests in progress, and the latest that ended."""

    def __init__(self, history: int = _HISTORY) -> None:
        """`history`: ended requests that are remembered."""
        self.records: set[Record] = set()
        """All requests in progress, also those that are for no model."""
        self.ended: deque[tuple[int, Ended]] = deque(maxlen=history)
        """Each with its number, from 1; the newest last."""
        self._count = 0

    def read(self, record: Record) -> None:
        """Remember a record that was closed, if it was a request for a model."""
        if record.model:
            self._count += 1
            self.ended.append((self._count, _to_ended(record)))

    def ended_after(self, number: int) -> list[Ended]:
        """Return those with a higher number, the oldest first."""
        return [ended for at, ended in self.ended if at > number]

    @property
    def last(self) -> int:
        """The number of the latest that ended."""
        return self._count

    def running(self, backends: Mapping[str, BackendModels]) -> list[Running]:
        """Describe the requests for models in progress, the oldest first."""
        records = [record for record in self.records if record.model]
        records.sort(key=lambda record: record.arrived_at)
        loading = {name: listed.backend.loading() for name, listed in backends.items()}
        return [_to_running(record, backends, loading) for record in records]


def to_state(
    attempt: Attempt | None, backends: Mapping[str, BackendModels], loading: Progress | None
) -> State:
    """Name what the latest attempt of a request waits for."""
    if attempt is None:
        return "preparing"
    if attempt.first_at is not None:
        return "writing"
    if attempt.ready_at is not None:
        return "reading"
    if loading is not None:
        return "loading"
    listed = backends.get(attempt.backend)
    return "queued" if listed and listed.backend.kind in _ADMITTING else "waiting"


def _to_running(
    record: Record,
    backends: Mapping[str, BackendModels],
    loading: Mapping[str, Mapping[str, Progress]],
) -> Running:
    attempt = record.attempts[-1] if record.attempts else None
    load = loading.get(attempt.backend, {}).get(attempt.model) if attempt is not None else None
    progress = attempt.progress if attempt is not None else None
    return Running(
        request_id=record.request_id,
        path=record.path[:_LONGEST],
        model=record.model[:_LONGEST],
        client=record.agent[:_LONGEST],
        address=record.address,
        key=record.grant.key,
        backend=record.backend,
        engine_model=attempt.model if attempt is not None else None,
        why=list(record.why()),
        fallback_from=record.fallback_from,
        streamed=record.streamed,
        state=to_state(attempt, backends, load),
        elapsed_s=round(record.clock() - record.arrived_at, 2),
        loading=_part(load),
        prompt_tokens=progress.total if progress is not None else None,
        prompt_read=progress.read if progress is not None else None,
        cached_tokens=progress.cached if progress is not None else None,
        written=sum([each.pieces for each in record.attempts if each.error is None]),
    )


def _part(load: Progress | None) -> float | None:
    if load is None or load.completed is None or not load.total:
        return None
    return round(min(1.0, load.completed / load.total), 3)


def _to_ended(record: Record) -> Ended:
    return Ended(
        **asdict(record.summary),
        client=record.agent[:_LONGEST],
        address=record.address,
        why=list(record.why()),
        cold=any(attempt.cold for attempt in record.attempts),
        ended_at=round(time.time(), 3),
    )
