"""One request among its backend's counters, whatever becomes of it."""

from collections.abc import Callable

from adapters.errors import BackendError


class Counted:
    """Around a request. One that does not `begin` is not counted."""

    def __init__(self, count: Callable[..., None]) -> None:
        """`count` adds what it is given to the counters, each by its name."""
        self._count = count
        self._began = False
        self._outcome = "cancelled"

    def begin(self) -> None:
        self._began = True
        self._count(active=1, started=1)

    def finish(self) -> None:
        """It has come to its end."""
        self._outcome = "finished"

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, _kind: object, exc: BaseException | None, _trace: object) -> None:
        if self._began:
            outcome = "failed" if isinstance(exc, BackendError) else self._outcome
            self._count(active=-1, **{outcome: 1})
