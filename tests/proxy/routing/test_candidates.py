"""Obstacles to candidates: unreachable backends, short contexts, and memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.scripted_backend import HELLO, ScriptedBackend, Step, chat, http_client

from adapters.backend import Model
from adapters.errors import (
    BackendUnavailableError,
    ContextLengthError,
    UnsupportedParameterError,
)
from adapters.memory import Footprint, MemoryBudget, Resident
from adapters.request import GenerationRequest, Message, TextPart
from proxy.config import ModelConfig
from proxy.memory.budget import SharedBudget
from proxy.models.registry import Registry
from proxy.routing.measurements import Measurements
from proxy.routing.requirements import Requirements, to_requirements
from proxy.routing.router import Router

URL = "/v1/chat/completions"
LONG = GenerationRequest(
    model="m", prompt=(Message(role="user", content=(TextPart("words " * 1000),)),)
)


class MemoryUser:
    """A memory user with models to choose."""

    elastic = False

    def __init__(self, *residents: Resident) -> None:
        self._residents = list(residents)

    def share_budget(self, room: MemoryBudget) -> None:
        self.room = room

    async def recommended(self) -> int | None:
        return None

    async def footprint(self, model: str) -> Footprint | None:
        return Footprint(weights=90)

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        return self._residents

    async def unload_for_memory(self, model: str) -> None:
        return None

    async def confine(self, nbytes: int) -> int:
        return 0


def resident(name: str, weights: int, *, busy: bool = False) -> Resident:
    return Resident(name=name, footprint=Footprint(weights=weights), busy=busy)


def engine(kind: str, *script: Step, **about: Any) -> ScriptedBackend:
    return ScriptedBackend(script or HELLO, kind=kind, models=[Model(name="m", **about)])


@asynccontextmanager
async def a_router(*backends: ScriptedBackend, budget: int = 100) -> AsyncIterator[Router]:
    registry, memory = Registry({}, period=60), SharedBudget(budget, frozenset(), 60)
    async with registry.open({}, {backend.kind: backend for backend in backends}):
        await registry.refresh(1)
        async with memory.open(registry.memory_users()):
            await memory.snapshot()
            yield Router(registry, Measurements(), memory)


async def order(router: Router, requirements: Requirements | None = None) -> list[str]:
    return [
        route.backend.kind for route in await router.routes("m", requirements or Requirements())
    ]


@pytest.mark.parametrize(
    ("mlx", "ollama", "first"),
    [
        (1000, 8000, "ollama"),
        (1000, None, "ollama"),
        (None, 8000, "mlx"),
        (8000, 1000, "mlx"),
        (1000, 1000, "mlx"),
    ],
)
async def test_candidate_with_a_short_context_comes_last(
    mlx: int | None, ollama: int | None, first: str
):
    backends = engine("mlx", context_length=mlx), engine("ollama", context_length=ollama)
    async with a_router(*backends) as router:
        assert (await order(router, to_requirements(LONG)))[0] == first
        assert (await order(router))[0] == "mlx"


async def test_answer_counts_towards_the_context():
    backends = engine("mlx", context_length=1000), engine("ollama", context_length=8000)
    async with a_router(*backends) as router:
        assert await order(router, Requirements(max_tokens=900)) == ["mlx", "ollama"]
        assert await order(router, Requirements(max_tokens=1001)) == ["ollama", "mlx"]


async def test_model_that_does_not_fit_in_memory_comes_last():
    mlx, ollama = engine("mlx", size_bytes=60), engine("ollama", size_bytes=60)
    mlx.memory_user, ollama.memory_user = MemoryUser(resident("other", 50, busy=True)), MemoryUser()
    async with a_router(mlx, ollama, budget=200) as router:
        assert await order(router) == ["mlx", "ollama"]
    ollama.memory_user = MemoryUser(resident("m", 40))
    async with a_router(mlx, ollama) as router:
        assert await order(router) == ["ollama", "mlx"]


async def test_candidate_that_evicts_nothing_comes_first():
    mlx, ollama = engine("mlx", size_bytes=60), engine("ollama", size_bytes=60)
    mlx.memory_user = MemoryUser(resident("other", 50))
    async with a_router(mlx, ollama) as router:
        decided = await router.decide("m", Requirements())
    assert [(each.deployment.backend, each.fit) for each in decided.order] == [
        ("ollama", "fits"),
        ("mlx", "evicts"),
    ]
    assert not any(any(each.obstacles) for each in decided.order)


async def test_footprint_by_file_headers_overrides_the_file_size():
    mlx, memory = engine("mlx", size_bytes=10), SharedBudget(100, frozenset(), 60)
    mlx.memory_user = MemoryUser(resident("other", 50, busy=True))
    registry = Registry({}, period=60)
    async with registry.open({}, {"mlx": mlx}), memory.open({"mlx": mlx.memory_user}):
        await memory.snapshot()
        assert memory.fit(("mlx", "m"), 10) == "fits"
        assert await memory.footprint("mlx", "m") == 90
        assert memory.fit(("mlx", "m"), 10) == "full"


async def test_memory_does_not_decide_on_embeddings():
    mlx, ollama = engine("mlx", size_bytes=60), engine("ollama", size_bytes=60)
    mlx.memory_user = MemoryUser(resident("other", 50, busy=True))
    async with a_router(mlx, ollama) as router:
        assert await order(router) == ["ollama", "mlx"]
        assert await order(router, Requirements(features=frozenset({"embeddings"}))) == [
            "mlx",
            "ollama",
        ]


async def test_preferred_backend_may_evict_idle_models():
    registry = Registry(
        {"m": ModelConfig(names={"mlx": "m", "ollama": "m"}, prefer="mlx")}, period=60
    )
    mlx, ollama = engine("mlx", size_bytes=60), engine("ollama")
    mlx.memory_user, memory = MemoryUser(resident("other", 50)), SharedBudget(100, frozenset(), 60)
    async with (
        registry.open({}, {"mlx": mlx, "ollama": ollama}),
        memory.open({"mlx": mlx.memory_user}),
    ):
        await registry.refresh(1)
        await memory.snapshot()
        assert await order(Router(registry, Measurements(), memory)) == ["mlx", "ollama"]


async def test_footprint_of_the_last_load_overrides_the_file_size():
    mlx = engine("mlx", size_bytes=10)
    mlx.memory_user = memory_user = MemoryUser()
    async with a_router(mlx, engine("ollama")) as router:
        async with memory_user.room.hold("m", Footprint(weights=90)):
            assert await order(router) == ["mlx", "ollama"]
        assert await order(router) == ["mlx", "ollama"]
        async with memory_user.room.hold("other", Footprint(weights=20)):
            assert await order(router) == ["ollama", "mlx"]


async def test_unreachable_backend_comes_last():
    mlx = engine("mlx", context_length=8000)
    backends = {"mlx": mlx, "ollama": engine("ollama", context_length=10)}
    registry = Registry({}, period=60)
    async with registry.open({}, backends):
        router = Router(registry, Measurements(), SharedBudget(100, frozenset(), 60))
        await registry.refresh(1)
        mlx.models = BackendUnavailableError("gone")
        await registry.refresh(1)
        assert await order(router, to_requirements(LONG)) == ["ollama", "mlx"]


class Picky(ScriptedBackend):
    """A backend that honours every feature but refuses one combination."""

    def check(self, request: GenerationRequest) -> None:
        if request.tools and request.response_format is not None:
            raise UnsupportedParameterError("Not both.", param="response_format")


BOTH: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "response_format": {"type": "json_object"},
}


async def test_request_that_one_backend_refuses_goes_to_the_other():
    mlx, ollama = Picky(kind="mlx"), engine("ollama")
    async with http_client(mlx, ollama) as client:
        answer = await client.post(URL, json=chat(**BOTH))
        forced = await client.post(URL, json=chat(**BOTH, backend="mlx"))
    assert answer.headers["x-tandem-backend"] == "ollama"
    assert "x-tandem-fallback-from" not in answer.headers
    assert (forced.status_code, forced.json()["error"]["param"]) == (400, "response_format")
    assert mlx.requests == []


async def test_request_that_both_backends_refuse_is_one_error():
    async with http_client(Picky(kind="mlx"), Picky(kind="ollama")) as client:
        answer = await client.post(URL, json=chat(**BOTH))
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "Not both.")


async def test_request_that_a_loaded_model_cannot_honour_goes_to_the_other():
    mlx = engine("mlx", UnsupportedParameterError("It does not think.", param="reasoning_effort"))
    async with http_client(mlx, engine("ollama")) as client:
        answer = await client.post(URL, json=chat(reasoning_effort="low"))
    assert answer.headers["x-tandem-backend"] == "ollama"
    assert answer.headers["x-tandem-fallback-from"] == "mlx; reason=unsupported_parameter"


def too_long(limit: int) -> ContextLengthError:
    error = ContextLengthError(f"It holds {limit} tokens.", param="messages")
    error.limit = limit
    return error


@pytest.mark.parametrize("longer", [9000, None])
@pytest.mark.parametrize("stream", [False, True])
async def test_too_long_prompt_goes_to_the_longer_context(longer: int | None, stream: bool):
    mlx = engine("mlx", too_long(8000), context_length=8000)
    async with http_client(mlx, engine("ollama", context_length=longer)) as client:
        response = await client.post(URL, json=chat(stream=stream))
    assert response.status_code == 200
    assert response.headers["x-tandem-backend"] == "ollama"
    assert response.headers["x-tandem-fallback-from"] == "mlx; reason=context_length_exceeded"


async def test_context_limit_is_remembered():
    mlx = engine("mlx", too_long(500), context_length=8000)
    async with http_client(mlx, engine("ollama", context_length=8000)) as client:
        long = chat(messages=[{"role": "user", "content": "words " * 1000}])
        first = await client.post(URL, json=long)
        second = await client.post(URL, json=long)
        plan = await client.post("/api/route", json=long)
        short = await client.post("/api/route", json=chat(backend="mlx"))
    assert "x-tandem-fallback-from" in first.headers
    assert "x-tandem-fallback-from" not in second.headers
    assert "500 tokens seems too short" in plan.json()["alternatives"][0]["why_not"]
    assert short.json()["context"] == 500
    assert len(mlx.requests) == 1


async def test_context_limit_of_the_request_is_not_remembered():
    mlx = engine("mlx", too_long(500), context_length=8000)
    async with http_client(mlx, engine("ollama", context_length=8000)) as client:
        for _ in range(2):
            answer = await client.post(URL, json=chat(num_ctx=500))
            assert answer.headers["x-tandem-backend"] == "ollama"
        plan = await client.post("/api/route", json=chat(backend="mlx"))
    assert plan.json()["context"] == 8000


async def test_too_long_prompt_does_not_go_to_an_equal_context():
    ollama = engine("ollama", context_length=8000)
    async with http_client(engine("mlx", too_long(8000), context_length=8000), ollama) as client:
        response = await client.post(URL, json=chat())
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert ollama.requests == []


async def test_forced_backend_does_not_fall_back_to_a_longer_context():
    ollama = engine("ollama")
    async with http_client(engine("mlx", too_long(10)), ollama) as client:
        response = await client.post(URL, json=chat(backend="mlx"))
    assert response.status_code == 400
    assert ollama.requests == []


@pytest.mark.parametrize(("mlx", "ollama"), [(4000, 8000), (8000, 4000)])
async def test_two_context_errors_report_the_larger_limit(mlx: int, ollama: int):
    backends = engine("mlx", too_long(mlx)), engine("ollama", too_long(ollama))
    async with http_client(*backends) as client:
        response = await client.post(URL, json=chat())
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message == "This model's maximum context length is 8000 tokens. It holds 8000 tokens."
    assert [len(backend.requests) for backend in backends] == [1, 1]
