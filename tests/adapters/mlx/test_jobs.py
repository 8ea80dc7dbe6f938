"""Background jobs in time slices, without an engine."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from adapters.errors import BackendTimeoutError
from adapters.mlx.jobs import Job, Jobs, Pieces, beside, finish


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def counting(
    done: list[str], name: str, pieces: int, clock: Clock | None = None, seconds: float = 0.0
) -> Pieces[str]:
    for _ in range(pieces):
        done.append(name)
        if clock is not None:
            clock.now += seconds
        yield
    return name


def failing() -> Pieces[str]:
    yield
    raise ValueError("broken")


def queue(*starts: Any, clock: Clock | None = None) -> tuple[Jobs, list[Future[str]]]:
    jobs = Jobs(slice_seconds=0.1, clock=clock or Clock())
    added = [Job[str](start) for start in starts]
    for job in added:
        jobs.add(job)
    return jobs, [job.future for job in added]


def test_pieces_are_done_one_job_after_the_other() -> None:
    done: list[str] = []
    work, futures = queue(lambda: counting(done, "a", 2), lambda: counting(done, "b", 1))
    work.advance()
    assert done == ["a", "a", "b"]
    assert [future.result(0) for future in futures] == ["a", "b"]
    assert len(work) == 0


def test_a_slice_ends_after_its_time() -> None:
    done: list[str] = []
    clock = Clock()
    work, [future] = queue(lambda: counting(done, "a", 3, clock, seconds=0.11), clock=clock)
    work.advance()
    assert done == ["a"]
    assert not future.done()
    while len(work):
        work.advance()
    assert future.result(0) == "a"


def test_one_that_fails_tells_its_own_future() -> None:
    work, [bad, good] = queue(failing, lambda: counting([], "b", 1))
    work.advance()
    with pytest.raises(ValueError, match="broken"):
        bad.result(0)
    assert good.result(0) == "b"


def test_one_that_was_cancelled_never_begins() -> None:
    done: list[str] = []
    work, [future] = queue(lambda: counting(done, "a", 1))
    assert future.cancel()
    work.advance()
    assert done == []
    assert len(work) == 0


def test_giving_up_closes_what_has_begun_and_tells_all() -> None:
    closed, clock = threading.Event(), Clock()

    def begun() -> Pieces[str]:
        try:
            while True:
                clock.now += 0.11
                yield
        finally:
            closed.set()

    work, futures = queue(begun, lambda: counting([], "b", 1), clock=clock)
    work.advance()
    work.give_up(ValueError("the end"))
    assert closed.is_set()
    for future in futures:
        with pytest.raises(ValueError, match="the end"):
            future.result(0)


def test_a_job_beside_leaves_the_thread_to_others_until_it_is_done() -> None:
    gate = threading.Event()

    def job() -> str:
        assert gate.wait(10)
        return threading.current_thread().name

    pieces = beside(job)
    for _ in range(3):
        next(pieces)
    gate.set()
    assert finish(pieces) != threading.current_thread().name


def test_a_job_beside_that_fails_is_told() -> None:
    def job() -> str:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        finish(beside(job))


def test_files_that_are_not_read_in_time_are_an_error_and_the_next_job_goes_on() -> None:
    disk_responds = threading.Event()
    work, futures = queue(
        lambda: beside(lambda: str(disk_responds.wait(20)), seconds=0.02),
        lambda: counting([], "next", 1),
    )
    while not futures[1].done():
        work.advance()
    disk_responds.set()
    assert isinstance(futures[0].exception(0), BackendTimeoutError)
