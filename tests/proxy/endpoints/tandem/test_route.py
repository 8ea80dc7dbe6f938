"""`POST /api/route`: the plan matches the routing."""

import random
from typing import Any

import httpx2
import pytest
from fakes.pictures import data_url, png
from fakes.scripted_backend import EVERYTHING, ScriptedBackend, chat, http_client

from adapters.backend import Model
from adapters.errors import BackendUnavailableError
from adapters.memory import Footprint, MemoryBudget, Resident
from adapters.request import Feature
from proxy.config import Config, ModelConfig, ServerConfig

URL = "/api/route"
CHAT = "/v1/chat/completions"
PICTURE = data_url(png(2, 2))
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "strict": True}}
WISHES: list[dict[str, Any]] = [
    {"logit_bias": {"1": 5}},
    {"response_format": SCHEMA},
    {"guided_grammar": 'start: "a"'},
    {"n": 2},
    {"tools": [TOOL]},
    {"tools": [TOOL], "tool_choice": "required"},
    {"logprobs": True},
    {"options": {"mirostat": 1}},
    {"max_tokens": 20_000},
    {"seed": 3, "temperature": 0.5},
    {"messages": [{"role": "user", "content": "long " * 20_000}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}
        ]
    },
    {"backend": "ollama"},
    {"backend": "mlx"},
    {"model": "mlx/m"},
    {"model": "preferred"},
    {"model": "unknown"},
    {"top_p": 7},
]
NOT_ON_MLX: set[Feature] = {"images", "options"}
NOT_ON_OLLAMA: set[Feature] = {"logit_bias", "guided_grammar"}
PREFERRED = Config(
    models={"preferred": ModelConfig(names={"mlx": "m", "ollama": "m"}, prefer="ollama")}
)


def engines() -> tuple[ScriptedBackend, ScriptedBackend]:
    mlx = Model(name="m", context_length=8192, lacks=frozenset({"n"}))
    return (
        ScriptedBackend(kind="mlx", models=[mlx], honours=EVERYTHING - NOT_ON_MLX),
        ScriptedBackend(
            kind="ollama",
            models=[Model(name="m", context_length=32_768)],
            honours=EVERYTHING - NOT_ON_OLLAMA,
        ),
    )


async def plan(client: httpx2.AsyncClient, **fields: object) -> dict[str, Any]:
    response = await client.post(URL, json=chat(**fields))
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.slow
async def test_plan_matches_the_answer_for_a_hundred_random_requests():
    chance = random.Random(6)  # noqa: S311
    outcomes: set[str] = set()
    async with http_client(*engines(), config=PREFERRED) as client:
        for _ in range(100):
            wishes = chance.sample(WISHES, k=chance.randint(0, 3))
            body = chat(**{name: value for wish in wishes for name, value in wish.items()})
            planned = await client.post(URL, json=body)
            answered = await client.post(CHAT, json=body)
            assert planned.status_code == answered.status_code, body
            if planned.status_code == 200:
                assert planned.json()["backend"] == answered.headers["x-tandem-backend"]
                outcomes.add(planned.json()["reasons"][0])
            else:
                assert planned.json() == answered.json()
                outcomes.add(planned.json()["error"]["code"])
    assert len(outcomes) > 8  # They were not all alike.


async def test_nothing_is_run():
    mlx, ollama = engines()
    async with http_client(mlx, ollama) as client:
        for _ in range(20):
            await plan(client)
    assert mlx.requests == ollama.requests == []


async def test_the_plan_in_full():
    async with http_client(*engines()) as client:
        assert await plan(client, logit_bias={"1": 5}, num_ctx=4096) == {
            "backend": "mlx",
            "model": "m",
            "reasons": [
                "Only mlx supports this request. "
                "ollama does not support 'logit_bias' with this model.",
                "The model fits in memory beside all loaded models.",
            ],
            "context": 4096,
            "memory_bytes": None,
            "alternatives": [
                {
                    "backend": "ollama",
                    "model": "m",
                    "why_not": "ollama does not support 'logit_bias' with this model.",
                }
            ],
        }


async def why_not(client: httpx2.AsyncClient, **fields: object) -> str:
    (alternative,) = (await plan(client, **fields))["alternatives"]
    return alternative["why_not"]


async def test_alternatives_have_reasons():
    mlx, ollama = engines()
    async with http_client(mlx, ollama, config=PREFERRED) as client:
        assert "too short" in await why_not(client, max_tokens=20_000)
        assert "requires mlx" in await why_not(client, backend="mlx")
        assert "ollama is preferred" in await why_not(client, model="preferred")
        assert "'n'" in await why_not(client, n=2)
        assert "mlx has to be measured" in await why_not(client)
        for _ in range(10):
            await client.post(CHAT, json=chat())
        assert " s." in await why_not(client)


async def test_alternative_that_evicts_idle_models_has_that_reason():
    mlx, ollama = ScriptedBackend(kind="mlx"), ScriptedBackend(kind="ollama")
    mlx.models, mlx.memory_user = [Model(name="m", size_bytes=70)], MemoryUser(("other", 50))
    config = Config(server=ServerConfig(memory_bytes=100))
    async with http_client(mlx, ollama, config=config) as client:
        await client.get("/health")
        assert "have to be unloaded" in await why_not(client)


async def test_unreachable_backend_has_that_reason():
    mlx, ollama = engines()
    mlx.models = BackendUnavailableError("gone")
    config = Config(models={"both": ModelConfig(names={"mlx": "m", "ollama": "m"})})
    async with http_client(mlx, ollama, config=config) as client:
        await client.get("/v1/models")
        assert "did not respond last time" in await why_not(client, model="both")
        planned = await plan(client, model="both", logit_bias={"1": 5})
    assert (planned["backend"], planned["reasons"][1]) == (
        "mlx",
        "It did not respond last time, but there is no alternative.",
    )


async def test_only_backend_with_the_model_has_that_reason():
    async with http_client(ScriptedBackend(kind="mlx")) as client:
        planned = await plan(client)
    assert planned["reasons"][0] == "Only mlx has the model."
    assert (planned["context"], planned["alternatives"]) == (None, [])


class MemoryUser:
    elastic = False

    def __init__(self, *loaded: tuple[str, int]) -> None:
        self._loaded = [
            Resident(name=name, footprint=Footprint(weights=nbytes)) for name, nbytes in loaded
        ]

    def share_budget(self, room: MemoryBudget) -> None:
        pass

    async def recommended(self) -> int | None:
        return None

    async def footprint(self, model: str) -> Footprint | None:
        return Footprint(weights=70, context=7)

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        return self._loaded

    async def unload_for_memory(self, model: str) -> None:
        pass

    async def confine(self, nbytes: int) -> int:
        return 0


async def test_footprint_read_for_a_plan_counts_in_it():
    mlx, ollama = ScriptedBackend(kind="mlx"), ScriptedBackend(kind="ollama")
    mlx.models, mlx.memory_user = [Model(name="m", size_bytes=10)], MemoryUser(("other", 40))
    config = Config(server=ServerConfig(memory_bytes=100))
    async with http_client(mlx, ollama, config=config) as client:
        await client.get("/health")
        planned = await plan(client)  # The file has 10 bytes, and 77 are needed.
        answered = await client.post(CHAT, json=chat())
    assert planned["backend"] == answered.headers["x-tandem-backend"] == "ollama"


async def test_plan_has_the_memory_of_the_model():
    backend = ScriptedBackend(kind="mlx")
    backend.memory_user = MemoryUser()
    async with http_client(backend) as client:
        assert (await plan(client))["memory_bytes"] == 77


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        (chat(temperature=9), "temperature"),
        (chat(backend="vllm"), "backend"),
        (chat(max_completion_tokens=5), "max_completion_tokens"),
    ],
)
async def test_errors_are_those_of_a_chat(body: dict[str, Any], param: str):
    backend = ScriptedBackend(honours=EVERYTHING - {"max_tokens"})
    async with http_client(backend) as client:
        planned, chatted = await client.post(URL, json=body), await client.post(CHAT, json=body)
    assert (planned.status_code, planned.json()) == (chatted.status_code, chatted.json())
    assert (planned.status_code, planned.json()["error"]["param"]) == (400, param)
