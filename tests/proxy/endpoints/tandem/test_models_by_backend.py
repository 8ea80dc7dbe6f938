"""`GET /api/models`, `/api/models/{id}` and `/api/mlx/models`."""

import pytest
from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.backend import Model, Progress
from adapters.errors import BackendUnavailableError
from proxy.config import Config, ModelConfig

BIG = Model(
    name="org/Big:7b",
    context_length=4096,
    capabilities=frozenset({"tools", "chat"}),
    size_bytes=10,
    quantization="4-bit",
    digest="d1",
    loaded=True,
)
OTHER = Model(name="big:latest", quantization="Q4_0", loaded=False)
CONFIG = Config(models={"both": ModelConfig(names={"mlx": "org/Big:7b", "ollama": "big:latest"})})
NAMES = ["both", "org/Big:7b", "big:latest"]


class Loading(ScriptedBackend):
    def loading(self) -> dict[str, Progress]:
        return {"big:latest": Progress(status="loading", completed=1, total=2)}


async def test_models_are_listed_by_backend():
    mlx = ScriptedBackend(kind="mlx", models=[BIG])
    other = Loading(kind="ollama", models=[OTHER])
    async with http_client(mlx, other, config=CONFIG) as client:
        backends = (await client.get("/api/models")).json()["backends"]
    assert list(backends) == ["mlx", "ollama"]
    (on_mlx,), (on_ollama,) = backends["mlx"]["models"], backends["ollama"]["models"]
    assert on_mlx == {
        "model_id": "both",
        "names": on_mlx["names"],
        "backend": "mlx",
        "name": "org/Big:7b",
        "quantization": "4-bit",
        "size_bytes": 10,
        "digest": "d1",
        "context_length": 4096,
        "capabilities": ["chat", "tools"],
        "template": [],
        "loaded": True,
        "loaded_context": None,
        "notes": [],
        "loading": None,
    }
    assert sorted(on_mlx["names"]) == sorted(on_ollama["names"]) == sorted(NAMES)
    assert (on_ollama["quantization"], on_ollama["loaded"]) == ("Q4_0", False)
    assert on_ollama["loading"] == {"status": "loading", "completed": 1, "total": 2}


async def test_unreachable_backend_has_no_models():
    mlx = ScriptedBackend(kind="mlx", models=[BIG])
    away = ScriptedBackend(kind="ollama", models=BackendUnavailableError("gone"))
    async with http_client(mlx, away) as client:
        backends = (await client.get("/api/models")).json()["backends"]
    assert backends["ollama"] == {"reached": False, "models": [], "unusable": {}}
    assert (backends["mlx"]["reached"], len(backends["mlx"]["models"])) == (True, 1)


@pytest.mark.parametrize("path", [*NAMES, "org%2FBig%3A7b", "mlx/org/Big:7b"])
async def test_model_is_retrieved_as_openais_card(path: str):
    mlx, other = [
        ScriptedBackend(kind=kind, models=[model])
        for kind, model in (("mlx", BIG), ("ollama", OTHER))
    ]
    async with http_client(mlx, other, config=CONFIG) as client:
        card = (await client.get(f"/api/models/{path}")).json()
        assert card == (await client.get(f"/v1/models/{path}")).json()
    assert card["root"] == "both"


class Withholding(ScriptedBackend):
    def withheld(self) -> dict[str, str]:
        return {"small": "with `embedded: always` it is there"}


@pytest.mark.parametrize("name", ["small", "mlx/small"])
async def test_model_that_a_setting_withholds_is_not_found_and_has_the_setting(name: str):
    async with http_client(Withholding(kind="mlx", models=[BIG])) as client:
        refused = await client.get(f"/v1/models/{name}")
    assert refused.status_code == 404
    assert "with `embedded: always` it is there." in refused.json()["error"]["message"]


class WithUnusable(ScriptedBackend):
    def unusable(self) -> dict[str, str]:
        return {"org/half": "model-00002-of-00002.safetensors is missing"}


@pytest.mark.parametrize("name", ["org/half", "mlx/org/half"])
async def test_model_that_cannot_be_used_is_not_found_and_has_its_reason(name: str):
    reason = "model-00002-of-00002.safetensors is missing"
    async with http_client(WithUnusable(kind="mlx", models=[BIG])) as client:
        listed = (await client.get("/api/models")).json()["backends"]["mlx"]
        names = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        refused = await client.get(f"/v1/models/{name}")
    assert listed["unusable"] == {"org/half": reason}
    assert "org/half" not in names
    assert refused.status_code == 404
    error = refused.json()["error"]
    assert error["message"] == f"The model 'org/half' cannot be used on mlx: {reason}."
    assert error["code"] == "model_not_found"


async def test_unknown_model_is_not_found():
    async with http_client(ScriptedBackend(kind="mlx", models=[BIG])) as client:
        response = await client.get("/api/models/unknown")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_models_of_mlx_are_its_own():
    mlx = ScriptedBackend(kind="mlx", models=[BIG])
    other = ScriptedBackend(kind="ollama", models=[OTHER])
    async with http_client(mlx, other) as client:
        (model,) = (await client.get("/api/mlx/models")).json()["models"]
    assert (model["backend"], model["name"]) == ("mlx", "org/Big:7b")
    async with http_client(other) as client:
        assert (await client.get("/api/mlx/models")).status_code == 503
