"""Requests in progress on one server are counted until they end, at any step."""

from collections.abc import Callable, Sequence

import pytest

from adapters.ollama.in_flight import InFlight, InFlightByRunner, InFlightRequest

STEPS: Sequence[Callable[[InFlightRequest], None]] = (
    lambda use: use.take(4096),
    lambda use: use.wait(cold=True),
    lambda use: use.take(8192),
    lambda use: use.wait(cold=True),
    lambda use: use.begin(),
)


def seen(work: InFlight) -> tuple[int, int, InFlightByRunner]:
    return work.requests, work.answers, work.of("m:latest")


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
def test_nothing_is_left_of_a_request_that_ends_after_any_step(steps: int):
    work = InFlight()
    use = InFlightRequest(work, "m")
    for step in STEPS[:steps]:
        step(use)
    use.end()
    requests, answers, tally = seen(work)
    assert (requests, answers, tally.requests, tally.loads, tally.contexts) == (0, 0, 0, 0, {})
    assert tally.used_at > 0


def test_model_is_loaded_with_the_first_line():
    work = InFlight()
    use = InFlightRequest(work, "m")
    use.take(4096)
    use.wait(cold=True)
    assert (work.of("m").loads, work.answers) == (1, 0)
    assert work.loading() == ["m:latest"]
    use.begin()
    assert (work.of("m").loads, work.answers) == (0, 1)
    assert work.loading() == []


def test_longest_context_is_that_of_all_requests_in_progress():
    work = InFlight()
    long, short = InFlightRequest(work, "m"), InFlightRequest(work, "m:latest")
    assert work.longest_context("m") is None
    short.take(4096)
    long.take(4096)
    long.take(8192)
    assert work.longest_context("m") == 8192
    assert work.longest_context("another") is None
    long.end()
    assert work.longest_context("m") == 4096
