"""`/api/mlx/…`: MLX and nothing else."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fakes.scripted_backend import ScriptedBackend, http_client
from fakes.waiting import pause
from msgspec.structs import replace

from adapters.backend import Model, Progress
from adapters.errors import BackendBusyError, GenerationError, InsufficientMemoryError
from proxy.config import Config, ModelConfig, ServerConfig

NAME = "org/Big:7b"
CONFIG = Config(models={"both": ModelConfig(names={"mlx": NAME, "ollama": "big"})})


class Loads(ScriptedBackend):
    """Loads in two steps, long enough to be seen."""

    def __init__(self, failure: Exception | None = None, *, kind: str = "mlx") -> None:
        super().__init__(kind=kind, models=[Model(name=NAME)])
        self.failure = failure
        self.steps = [Progress(status="loading", completed=n, total=2) for n in (1, 2)]
        self.told: list[tuple[Any, ...]] = []

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        self.told.append(("load", model, keep_alive))
        while self.steps:
            await pause(0.25)
            self.steps.pop(0)
        if self.failure is not None:
            raise self.failure

    async def list_models(self) -> list[Model]:
        is_loaded = any(what == "load" for what, *_ in self.told[-1:])
        return [replace(model, loaded=is_loaded) for model in await super().list_models()]

    def loading(self) -> dict[str, Progress]:
        return {NAME: self.steps[0]} if self.steps else {}

    async def unload(self, model: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append(("unload", model))


@asynccontextmanager
async def client_of(*backends: ScriptedBackend) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(*backends, config=CONFIG) as client:
        yield client


async def test_generation_is_always_mlxs():
    mlx = ScriptedBackend(kind="mlx", models=[Model(name=NAME)])
    other = ScriptedBackend(kind="ollama", models=[Model(name=NAME), Model(name="other")])
    async with client_of(other, mlx) as client:
        for name in (NAME, "both", f"mlx/{NAME}", "Big:7b"):
            body = {"model": name, "prompt": "Hi"}
            answer = (await client.post("/api/mlx/generate", json=body)).json()
            assert (answer["model_id"], answer["backend"]) == (name, "mlx")
            assert answer["response"] == "Hello"
        others = {"model": "other", "prompt": "Hi"}
        assert (await client.post("/api/mlx/generate", json=others)).status_code == 404
    assert len(mlx.requests) == 4
    assert not other.requests


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"backend": "ollama"}, "backend"), ({"model": "ollama/big"}, "backend"), ({}, "prompt")],
)
async def test_contradiction_is_refused_by_name(fields: dict[str, Any], param: str):
    body = {"model": NAME, **({"prompt": "Hi"} if fields else {}), **fields}
    async with client_of(Loads(), ScriptedBackend(kind="ollama")) as client:
        response = await client.post("/api/mlx/generate", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "path", ["org/Big:7b", "org%2FBig%3A7b", "mlx/org/Big:7b", "both", "Big:7b"]
)
async def test_model_is_loaded_by_any_of_its_names(path: str):
    mlx = Loads()
    mlx.steps = []
    async with client_of(mlx) as client:
        response = await client.post(f"/api/mlx/load/{path}", json={"keep_alive": "5m"})
    assert response.status_code == 200
    assert response.json() == {
        "model_id": path.replace("%2F", "/").replace("%3A", ":"),
        "backend": "mlx",
        "name": NAME,
        "backends": ["mlx"],
        "status": "loaded",
        "memory_bytes": None,
    }
    assert mlx.told == [("load", NAME, 300.0)]
    assert response.headers["x-tandem-backend"] == "mlx"


async def test_load_needs_no_body():
    mlx = Loads()
    mlx.steps = []
    async with client_of(mlx) as client:
        assert (await client.post(f"/api/mlx/load/{NAME}")).json()["status"] == "loaded"
    assert mlx.told == [("load", NAME, None)]


@pytest.mark.slow
async def test_load_in_steps_tells_how_far_it_is():
    async with client_of(Loads()) as client:
        response = await client.post(f"/api/mlx/load/{NAME}", json={"stream": True, "ttl": 5})
    assert response.headers["content-type"] == "application/x-ndjson"
    told = [json.loads(line) for line in response.text.splitlines()]
    assert [(line["status"], line["completed"]) for line in told] == [
        ("loading", 1),
        ("loading", 2),
        ("success", None),
    ]


@pytest.mark.slow
async def test_load_that_fails_on_the_way_ends_with_an_error():
    async with client_of(Loads(GenerationError("It broke."))) as client:
        response = await client.post(f"/api/mlx/load/{NAME}", json={"stream": True})
        assert json.loads(response.text.splitlines()[-1])["error"]["code"] == "generation_failed"
    none = InsufficientMemoryError("It needs 9 bytes.")
    mlx = Loads(none)
    mlx.steps = []
    async with client_of(mlx) as client:
        for body in ({"stream": True}, {}):
            response = await client.post(f"/api/mlx/load/{NAME}", json=body)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "insufficient_memory"
            assert response.headers["x-should-retry"] == "false"


async def test_model_is_unloaded_unless_it_answers():
    mlx = Loads()
    async with client_of(mlx) as client:
        told = (await client.post("/api/mlx/unload/both")).json()
        assert (told["status"], told["name"], told["memory_bytes"]) == ("unloaded", NAME, 0)
        mlx.failure = BackendBusyError("It answers.")
        response = await client.post(f"/api/mlx/unload/{NAME}")
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "backend_busy"
    assert mlx.told == [("unload", NAME)]


@pytest.mark.parametrize("body", [{}, {"stream": True}])
async def test_list_tells_of_a_load_and_an_unload_at_once(body: dict[str, Any]):
    mlx = Loads()
    mlx.steps = []
    async with client_of(mlx) as client:
        for what, expected in (("load", True), ("unload", False)):
            await client.post(f"/api/mlx/{what}/{NAME}", json=body)
            models = (await client.get("/api/mlx/models")).json()["models"]
            assert {model["loaded"] for model in models} == {expected}


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_model_that_mlx_does_not_have_is_not_found(what: str):
    other = Loads(kind="ollama")
    async with client_of(ScriptedBackend(kind="mlx"), other) as client:
        response = await client.post(f"/api/mlx/{what}/{NAME}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert not other.told


@pytest.mark.parametrize("path", ["generate", f"load/{NAME}", f"unload/{NAME}"])
async def test_mlx_that_is_switched_off_is_not_tried_again(path: str):
    async with client_of(Loads(kind="ollama")) as client:
        response = await client.post(f"/api/mlx/{path}", json={"model_id": NAME, "prompt": "Hi"})
    assert response.status_code == 503
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["message"] == (
        "The mlx backend is switched off: the config has `mlx: null` or `false`."
    )


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_unknown_field_is_named_or_refused(what: str):
    mlx = Loads()
    mlx.steps = []
    config = Config(server=ServerConfig(strict_fields=True))
    async with client_of(mlx) as client:
        response = await client.post(f"/api/mlx/{what}/{NAME}", json={"gpu": 1})
        assert response.headers["x-tandem-ignored"] == "gpu"
    async with http_client(mlx, config=config) as client:
        response = await client.post(f"/api/mlx/{what}/{NAME}", json={"gpu": 1})
        assert response.json()["error"]["param"] == "gpu"


async def test_model_of_either_engine_is_loaded_and_unloaded_by_its_public_name():
    ollama = Loads(kind="ollama")
    ollama.steps = []
    async with client_of(ollama) as client:
        loaded = await client.post(f"/api/models/{NAME}/load", json={"keep_alive": "5m"})
        unloaded = await client.post("/api/models/org%2FBig%3A7b/unload")
    assert loaded.status_code == unloaded.status_code == 200
    assert loaded.json() == {
        "model_id": NAME,
        "backend": "ollama",
        "name": NAME,
        "backends": ["ollama"],
        "status": "loaded",
        "memory_bytes": None,
    }
    assert loaded.headers["x-tandem-backend"] == "ollama"
    assert (unloaded.json()["model_id"], unloaded.json()["status"]) == (NAME, "unloaded")
    assert ollama.told == [("load", NAME, 300.0), ("unload", NAME)]


@pytest.mark.parametrize("where", ["headers", "json"])
async def test_model_is_loaded_and_unloaded_on_the_backend_that_the_request_names(where: str):
    mlx, ollama = Loads(), Loads(kind="ollama")
    ollama.steps = []
    named: dict[str, Any] = {
        where: {"x-tandem-backend" if where == "headers" else "backend": "ollama"}
    }
    async with client_of(mlx, ollama) as client:
        loaded = await client.post(f"/api/models/{NAME}/load", **named)
        unloaded = await client.post(f"/api/models/{NAME}/unload", **named)
    assert loaded.json()["backend"] == "ollama"
    assert unloaded.json()["backends"] == ["ollama"]
    assert "x-tandem-ignored" not in loaded.headers
    assert mlx.told == []


async def test_unload_names_each_backend_that_had_the_model():
    async with client_of(Loads(), Loads(kind="ollama")) as client:
        unloaded = await client.post(f"/api/models/{NAME}/unload")
    assert unloaded.json()["backends"] == ["mlx", "ollama"]


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_other_backend_is_refused_where_the_address_names_mlx(what: str):
    async with client_of(Loads(), Loads(kind="ollama")) as client:
        response = await client.post(f"/api/mlx/{what}/{NAME}", json={"backend": "ollama"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "backend"


@pytest.mark.slow
async def test_progress_of_a_load_by_public_name_is_streamed():
    async with client_of(Loads()) as client:
        response = await client.post(f"/api/models/{NAME}/load", json={"stream": True})
    told = [json.loads(line) for line in response.text.splitlines()]
    assert [line["status"] for line in told] == ["loading", "loading", "success"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("no/such:model/load", 404, "model_not_found"),
        (f"{NAME}/start", 405, "method_not_allowed"),
        ("load", 405, "method_not_allowed"),
    ],
)
async def test_other_posts_to_models_are_refused(path: str, status: int, code: str):
    async with client_of(Loads()) as client:
        response = await client.post(f"/api/models/{path}", json={})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
