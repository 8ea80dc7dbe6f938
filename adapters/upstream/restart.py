"""Failover: the same request to one server after another, until one answers."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from msgspec.structs import replace

from adapters.errors import BackendError, InvalidRequestError, ModelNotFoundError
from adapters.upstream.deadlines import Deadline

S = TypeVar("S")
T = TypeVar("T")


def is_not_the_callers(error: BackendError) -> bool:
    """True unless the request itself is at fault, which every server would refuse."""
    return not isinstance(error, InvalidRequestError)


class Failover(Generic[S, T]):
    """One request; each server is tried once at most, the best first."""

    def __init__(
        self,
        servers: Sequence[S],
        ask: Callable[[S, Deadline], Awaitable[T]],
        deadline: Deadline,
        find_others: Callable[[Sequence[S]], Awaitable[list[S]]],
        may_retry: Callable[[BackendError], bool] = is_not_the_callers,
    ) -> None:
        """`servers` could answer, in that order. `find_others` returns servers that can by now,
        beside those it is given. `may_retry`: another server may answer after this error."""
        self._left = list(servers)
        self._known = list(servers)
        self._ask, self._deadline = ask, deadline
        self._find_others = find_others
        self._may_retry = may_retry

    async def result(self) -> T:
        """Return the result of the first server that answers.

        Raises:
            BackendError: what the last server raised, but for `ModelNotFoundError` where another
                server has failed: that one has the model, and may be back.
        """
        failed: BackendError | None = None
        while True:
            server = self._left.pop(0)
            try:
                deadline = replace(self._deadline, elsewhere=True) if self._left else self._deadline
                return await self._ask(server, deadline)
            except BackendError as error:
                if not self._may_retry(error):
                    raise
                failed = (isinstance(error, ModelNotFoundError) and failed) or error
            if not self._left:
                self._left = await self._find_others(self._known)
                self._known += self._left
            if not self._left:
                raise failed
