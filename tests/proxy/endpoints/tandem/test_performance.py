"""`GET /api/performance/comparison`: live answers, benchmarks, and verdicts."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fakes.bench_results import MLX, OLLAMA, bench_result
from fakes.scripted_backend import ScriptedBackend, chat, http_client
from msgspec.structs import replace

from adapters.backend import Model
from proxy.bench.archive import Archive
from proxy.bench.results import Contestant
from proxy.config import Config, ModelConfig, ServerConfig

URL = "/api/performance/comparison"


def both() -> tuple[ScriptedBackend, ScriptedBackend]:
    mlx = Model(name="m", quantization="4-bit", origin="sha256:aa", size_bytes=9)
    ollama = Model(name="m:1", quantization="Q4_1", digest="d1", origin="sha256:aa")
    return ScriptedBackend(kind="mlx", models=[mlx]), ScriptedBackend(
        kind="ollama", models=[ollama]
    )


def config(folder: Path) -> Config:
    return Config(
        server=ServerConfig(state_folder=str(folder)),
        models={"small": ModelConfig(names={"mlx": "m", "ollama": "m:1"})},
    )


async def comparison(client: httpx2.AsyncClient, **params: str) -> list[dict[str, Any]]:
    response = await client.get(URL, params=params)
    assert response.status_code == 200
    return response.json()["models"]


async def test_benched_model_without_answers_is_listed(tmp_path: Path):
    Archive(tmp_path).save(bench_result())
    async with http_client(*both(), config=config(tmp_path)) as client:
        (model,) = await comparison(client)
    assert (model["model_id"], model["live"]) == ("small", [])
    (benched,) = model["benched"]
    assert not benched["stale"]
    assert benched["machine"]["cpu"] == "A CPU"
    assert [(row["backend"], row["together"]) for row in benched["rows"]] == [
        ("mlx", 10.0),
        ("ollama", 20.0),
    ]
    (verdict,) = model["summary"]
    assert (verdict["source"], verdict["together"]) == (
        "benched",
        {"backend": "ollama", "times": 2.0},
    )


async def test_first_comparison_waits_for_the_listings(tmp_path: Path):
    class Slow(ScriptedBackend):
        async def list_models(self) -> list[Model]:
            await listing
            return await super().list_models()

    Archive(tmp_path).save(bench_result(contestants=(MLX,)))
    backend = Slow(kind="mlx", models=[Model(name="m")])
    only = Config(server=ServerConfig(state_folder=str(tmp_path)))
    listing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with http_client(backend, config=only) as client:
        comparing = asyncio.create_task(comparison(client))
        await asyncio.sleep(0)  # It waits by now.
        listing.set_result(None)
        assert [each["model_id"] for each in await comparing] == ["m"]


@pytest.mark.parametrize(
    "then", [(MLX, replace(OLLAMA, digest="d0")), (replace(MLX, size_bytes=7), OLLAMA)]
)
async def test_benchmark_of_other_weights_is_stale(
    tmp_path: Path, then: tuple[Contestant, Contestant]
):
    Archive(tmp_path).save(bench_result(contestants=then))
    async with http_client(*both(), config=config(tmp_path)) as client:
        (model,) = await comparison(client)
    assert [each["stale"] for each in model["benched"]] == [True]
    assert model["summary"] == []


async def test_benchmark_of_other_models_is_omitted(tmp_path: Path):
    Archive(tmp_path).save(bench_result(contestants=(MLX, replace(OLLAMA, name="other:1"))))
    async with http_client(*both(), config=config(tmp_path)) as client:
        assert await comparison(client) == []


async def test_comparison_of_one_model(tmp_path: Path):
    Archive(tmp_path).save(bench_result())
    async with http_client(*both(), config=config(tmp_path)) as client:
        assert [each["model_id"] for each in await comparison(client, model="small")] == ["small"]
        missing = await client.get(URL, params={"model": "unknown"})
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_comparison_of_one_model_without_measurements(tmp_path: Path):
    async with http_client(*both(), config=config(tmp_path)) as client:
        assert await comparison(client) == []
        (model,) = await comparison(client, model="small")
    assert (model["live"], model["benched"], model["summary"]) == ([], [], [])
    assert [each["name"] for each in model["backends"]] == ["m", "m:1"]


async def test_live_answers_of_both_have_a_summary(tmp_path: Path):
    async with http_client(*both(), config=config(tmp_path)) as client:
        for model in ("mlx/small", "ollama/small"):
            await client.post("/v1/chat/completions", json=chat(model=model))
        (compared,) = await comparison(client, model="small")
    (verdict,) = compared["summary"]
    assert (verdict["source"], verdict["answers"]) == ("live", 1)
    assert verdict["first_token"]["times"] >= 1
