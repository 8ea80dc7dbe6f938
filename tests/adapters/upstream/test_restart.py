"""Failover over servers: the order of the tries, and the error that is raised."""

from collections.abc import Sequence

import pytest

from adapters.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
)
from adapters.upstream.deadlines import AS_CONFIGURED, Deadline
from adapters.upstream.restart import Failover

AWAY = BackendUnavailableError("away")
MISSING = ModelNotFoundError("missing")
WRONG = InvalidRequestError("wrong")
SLOW = BackendTimeoutError("slow")

Answers = dict[str, BackendError | str]


class Servers:
    """Answers by name, and the record of the tries."""

    def __init__(self, answers: Answers, late: Sequence[str] = ()) -> None:
        self.tried: list[tuple[str, bool]] = []
        """Name, and whether another server was left."""
        self._answers = answers
        self._late = list(late)

    async def ask(self, name: str, deadline: Deadline) -> str:
        self.tried.append((name, deadline.elsewhere))
        answer = self._answers[name]
        if isinstance(answer, BackendError):
            raise answer
        return answer

    async def others(self, known: Sequence[str]) -> list[str]:
        return [name for name in self._late if name not in known]

    def failover(self, *names: str) -> Failover[str, str]:
        return Failover(names, self.ask, AS_CONFIGURED, self.others)


async def test_first_server_that_answers_ends_it():
    servers = Servers({"a": AWAY, "b": "B", "c": "C"})
    assert await servers.failover("a", "b", "c").result() == "B"
    assert servers.tried == [("a", True), ("b", True)]


async def test_error_of_the_last_server_is_raised():
    servers = Servers({"a": AWAY, "b": SLOW})
    with pytest.raises(BackendTimeoutError):
        await servers.failover("a", "b").result()
    assert servers.tried == [("a", True), ("b", False)]


async def test_missing_model_does_not_hide_that_another_server_failed():
    servers = Servers({"a": AWAY, "b": MISSING})
    with pytest.raises(BackendUnavailableError):
        await servers.failover("a", "b").result()


async def test_mistake_of_the_client_ends_it_at_once():
    servers = Servers({"a": WRONG, "b": "B"})
    with pytest.raises(InvalidRequestError):
        await servers.failover("a", "b").result()
    assert servers.tried == [("a", True)]


async def test_server_that_appears_meanwhile_is_tried_once():
    servers = Servers({"a": AWAY, "b": AWAY}, late=["a", "b"])
    with pytest.raises(BackendUnavailableError):
        await servers.failover("a").result()
    assert servers.tried == [("a", False), ("b", False)]


async def test_errors_that_may_be_retried_are_the_callers_choice():
    servers = Servers({"a": WRONG, "b": "B"})
    failover = Failover(("a", "b"), servers.ask, AS_CONFIGURED, servers.others, lambda _: True)
    assert await failover.result() == "B"
