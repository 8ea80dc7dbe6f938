"""The router chooses the faster backend: on a simulated clock, and through the server."""

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import httpx2
import pytest
from fakes.scripted_backend import chat, http_client

from adapters.request import GenerationRequest
from adapters.sink import Sink
from proxy.bench.developers.paced_backend import Pace, PacedBackend
from proxy.bench.developers.routing import RoutingPlan, RoutingRow, Scene, bench_routing, lines

FAST, SLOW = Pace(seconds=1.0), Pace(seconds=2.0)


@pytest.fixture(scope="module")
def rows() -> list[RoutingRow]:
    return asyncio.run(bench_routing(RoutingPlan(), lambda *_: None))


@pytest.mark.slow
def test_auto_is_at_most_a_tenth_slower_than_the_faster_backend(rows: list[RoutingRow]):
    assert max(row.ratio for row in rows) <= 1.1


@pytest.mark.slow
def test_backend_changes_once_after_the_other_has_become_faster(rows: list[RoutingRow]):
    changed = {row.scene: row.changes for row in rows if row.part == 1}
    assert changed == {"mlx slows down": 1, "they change places": 1}
    assert max(row.changes for row in rows) <= 1


@pytest.mark.slow
def test_figures_are_those_of_the_backends(rows: list[RoutingRow]):
    row = next(row for row in rows if row.scene == "ollama takes twice as long")
    assert (row.mlx, row.ollama) == (pytest.approx(1, rel=0.1), pytest.approx(2, rel=0.1))
    assert "| ollama takes twice as long | 1 | 20 |" in "\n".join(lines(rows))


@pytest.mark.slow
async def test_noise_over_hours_hardly_changes_the_backend():
    plan = RoutingPlan(scenes=(Scene("steady", ((FAST, SLOW),)),), prompts=(20,), requests=2000)
    (row,) = await bench_routing(plan, lambda *_: None)
    assert row.ratio <= 1.02
    assert row.changes <= 2 * 6  # The slower backend gets one request an hour.


async def kinds(client: httpx2.AsyncClient, many: int) -> list[str]:
    answers = [await client.post("/v1/chat/completions", json=chat()) for _ in range(many)]
    return [answer.headers["x-tandem-backend"] for answer in answers]


@pytest.mark.long
async def test_server_uses_the_faster_backend_and_does_not_flap():
    fast, slow = Pace(seconds=0.1), Pace(seconds=0.2)
    mlx = PacedBackend("mlx", slow, asyncio.sleep)
    ollama = PacedBackend("ollama", fast, asyncio.sleep)
    async with http_client(mlx, ollama) as client:
        await client.get("/v1/models")
        first = await kinds(client, 30)
        mlx.pace, ollama.pace = fast, slow
        second = await kinds(client, 40)
        mlx.pace, ollama.pace = slow, fast
        third = await kinds(client, 40)
    assert set(first[8:]) == {"ollama"}
    assert set(second[20:]) == {"mlx"}
    assert sum(one != other for one, other in pairwise(second)) == 1
    assert set(third) == {"mlx"}  # The minimum of ten minutes between changes is not over.


class Crowded(PacedBackend):
    """Backend with a speed that depends on the number of its answers in progress."""

    def __init__(self, kind: str, seconds: Callable[[int], float]) -> None:
        super().__init__(kind, FAST, asyncio.sleep)
        self._seconds = seconds
        self._in_progress = 0

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        self._in_progress += 1
        try:
            self.pace = Pace(seconds=self._seconds(self._in_progress))
            await super().generate(request, sink)
        finally:
            self._in_progress -= 1


@pytest.mark.long
@pytest.mark.parametrize(("clients", "better"), [(1, "ollama"), (2, "ollama"), (8, "mlx")])
async def test_concurrent_requests_go_to_the_backend_that_is_faster_under_load(
    clients: int, better: str
):
    mlx = Crowded("mlx", lambda _answers: 0.1)  # It decodes in batches: concurrency costs nothing.
    ollama = Crowded("ollama", lambda answers: 0.03 * answers)
    async with http_client(mlx, ollama) as client:
        await client.get("/v1/models")
        answers = await asyncio.gather(*(kinds(client, 30) for _ in range(clients)))
    late = Counter(kind for client_kinds in answers for kind in client_kinds[20:])
    assert late[better] >= 0.9 * late.total()
