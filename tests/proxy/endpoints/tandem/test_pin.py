"""`POST /api/pin`: a model that stays loaded until the server ends."""

from typing import Any

import httpx2
import pytest
from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.backend import Model
from adapters.errors import BackendBusyError
from adapters.memory import Footprint, MemoryBudget, Resident
from proxy.config import Config, ModelConfig


class User:
    """A memory user with one loaded model."""

    elastic = False

    def share_budget(self, room: MemoryBudget) -> None:
        pass

    async def recommended(self) -> int | None:
        return 1000

    async def footprint(self, model: str) -> Footprint | None:
        return Footprint(weights=10)

    async def resident(self, *, fresh: bool = False) -> list[Resident]:
        footprint = Footprint(weights=10)
        return [Resident(name="m:latest", footprint=footprint, busy=False, used_at=0.0)]

    async def unload_for_memory(self, model: str) -> None:
        raise AssertionError("nothing needs the memory")

    async def confine(self, nbytes: int) -> int:
        return 0


class Loads(ScriptedBackend):
    def __init__(self) -> None:
        super().__init__(kind="ollama", models=[Model(name="m:latest")])
        self.memory_user = User()
        self.loads: list[tuple[str, float | None]] = []
        self.pins: list[tuple[str, bool]] = []
        self.is_busy = False

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        self.loads.append((model, keep_alive))

    async def unload(self, model: str) -> None:
        if self.is_busy:
            raise BackendBusyError(f"'{model}' is answering a request.", param="model")

    async def set_pinned(self, model: str, pinned: bool) -> None:
        self.pins.append((model, pinned))


async def pin(client: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/api/pin", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def is_pinned(client: httpx2.AsyncClient) -> bool:
    (model,) = (await client.get("/health")).json()["memory"]["models"]
    return model["pinned"]


async def test_model_is_loaded_and_pinned():
    backend = Loads()
    async with http_client(backend) as client:
        assert await pin(client, model="m") == {
            "model": "m",
            "backend": "ollama",
            "name": "m:latest",
            "pinned": True,
        }
        assert await is_pinned(client)
    assert backend.loads == [("m:latest", None)]
    assert backend.pins == [("m:latest", True)]


@pytest.mark.parametrize("pin_in_config", [True, False])
async def test_model_is_let_go_also_where_the_config_pins_it(pin_in_config: bool):
    alias = ModelConfig(names={"ollama": "m"}, pin=pin_in_config)
    async with http_client(Loads(), config=Config(models={"alias": alias})) as client:
        await pin(client, model="alias")
        await pin(client, model="alias", pinned=False)
        assert not await is_pinned(client)


async def test_a_model_that_is_let_go_is_not_loaded():
    backend = Loads()
    async with http_client(backend) as client:
        await pin(client, model="m", pinned=False)
    assert backend.loads == []
    assert backend.pins == [("m:latest", False)]


@pytest.mark.parametrize("pin_in_config", [True, False])
async def test_unloading_ends_a_pin_but_that_of_the_config(pin_in_config: bool):
    backend = Loads()
    alias = ModelConfig(names={"ollama": "m"}, pin=pin_in_config)
    async with http_client(backend, config=Config(models={"alias": alias})) as client:
        await pin(client, model="alias")
        assert (await client.post("/api/models/m/unload")).status_code == 200
        assert await is_pinned(client) is pin_in_config
        assert (await client.post("/api/models/m/unload")).status_code == 200
    assert [pinned for _, pinned in backend.pins] == [True, False]


async def test_pin_stays_when_the_model_answers_and_cannot_be_unloaded():
    backend = Loads()
    async with http_client(backend) as client:
        await pin(client, model="m")
        backend.is_busy = True
        assert (await client.post("/api/models/m/unload")).status_code == 429
        assert await is_pinned(client)
    assert backend.pins[-1] == ("m:latest", True)


async def test_unknown_model_is_not_found():
    async with http_client(Loads()) as client:
        response = await client.post("/api/pin", json={"model": "none"})
    assert response.status_code == 404
