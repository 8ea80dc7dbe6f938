"""`/v1/models`, `/v1/models/{id}`, `/health`, and the headers of every response."""

import asyncio

import pytest
from fakes.scripted_backend import HANG, ScriptedBackend, chat, http_client, openai_client

from adapters.backend import Health, Model
from adapters.errors import BackendUnavailableError
from proxy.config import Config, ModelConfig

FULL = Model(
    name="org/Big:7b",
    context_length=4096,
    capabilities=frozenset({"tools", "chat"}),
    size_bytes=10,
    quantization="Q4_0",
    digest="d1",
    created=5,
    loaded=True,
    loaded_context=2048,
)
ALIAS = Config(models={"fast": ModelConfig(names={"mlx": "org/Big:7b", "ollama": "absent"})})


async def test_models_are_listed_with_all_known_fields():
    async with http_client(ScriptedBackend(kind="mlx", models=[FULL])) as client:
        body = (await client.get("/v1/models")).json()
    assert body == {
        "object": "list",
        "data": [
            {
                "id": "org/Big:7b",
                "object": "model",
                "created": 5,
                "owned_by": "mlx",
                "root": "org/Big:7b",
                "names": ["org/Big:7b"],
                "backends": [
                    {
                        "backend": "mlx",
                        "name": "org/Big:7b",
                        "quantization": "Q4_0",
                        "size_bytes": 10,
                        "digest": "d1",
                        "context_length": 4096,
                        "capabilities": ["chat", "tools"],
                        "template": [],
                        "notes": [],
                        "loaded": True,
                        "loaded_context": 2048,
                    }
                ],
                "same_weights": None,
                "context_length": 4096,
                "max_model_len": 4096,
                "capabilities": ["chat", "tools"],
                "quantization": "Q4_0",
                "size_bytes": 10,
                "digest": "d1",
                "loaded": True,
                "loaded_context": 2048,
            }
        ],
    }


async def test_model_on_two_backends_is_listed_once():
    mlx = ScriptedBackend(kind="mlx", models=[Model(name="a")])
    ollama = ScriptedBackend(kind="ollama", models=[Model(name="a", context_length=9)])
    async with openai_client(mlx, ollama) as client:
        (card,) = [card async for card in client.models.list()]
    assert card.owned_by == "mlx,ollama"
    assert card.model_extra is not None
    assert [place["backend"] for place in card.model_extra["backends"]] == ["mlx", "ollama"]
    assert card.model_extra["context_length"] == 9


async def test_pair_has_a_card_for_each_name_with_the_figures_of_each_backend():
    packed = Model(name="org/a", quantization="4-bit", context_length=8, loaded=True, size_bytes=1)
    mlx = ScriptedBackend(kind="mlx", models=[packed])
    other = Model(name="a:7b", quantization="Q4_K_M", context_length=9, loaded=False, size_bytes=2)
    ollama = ScriptedBackend(kind="ollama", models=[other])
    pair = Config(models={"fast": ModelConfig(names={"mlx": "org/a", "ollama": "a:7b"})})
    async with http_client(mlx, ollama, config=pair) as client:
        cards = (await client.get("/v1/models")).json()["data"]
        single = (await client.get("/v1/models/a:7b")).json()
        forced = (await client.get("/v1/models/ollama/fast")).json()
    assert [card["id"] for card in cards] == ["fast", "org/a", "a:7b"]
    assert {card["root"] for card in cards} == {"fast"}
    assert single == cards[2]
    figures = [(p["backend"], p["quantization"], p["size_bytes"]) for p in cards[0]["backends"]]
    assert figures == [("mlx", "4-bit", 1), ("ollama", "Q4_K_M", 2)]
    keys = ("quantization", "size_bytes", "same_weights", "context_length", "loaded")
    assert [cards[0][key] for key in keys] == [None, None, None, 9, True]
    assert (forced["id"], forced["quantization"]) == ("fast", "Q4_K_M")


@pytest.mark.parametrize(
    ("origin", "exact", "same"),
    [("sha256:1", True, True), ("sha256:1", False, False), ("sha256:2", True, None)],
)
async def test_same_weights_only_if_known(origin: str, exact: bool, same: bool | None):
    made = Model(name="a", quantization="4-bit", origin=origin, exact=exact)
    tag = Model(name="a", quantization="4-bit", origin="sha256:1", exact=True)
    mlx, ollama = (ScriptedBackend(kind=k, models=[m]) for k, m in (("mlx", made), ("ollama", tag)))
    async with http_client(mlx, ollama) as client:
        assert (await client.get("/v1/models/a")).json()["same_weights"] is same


async def test_aliases_are_listed_if_one_of_their_backends_is_reachable():
    mlx = ScriptedBackend(kind="mlx", models=[FULL])
    async with openai_client(mlx, config=ALIAS) as client:
        assert [card.id async for card in client.models.list()] == ["fast", "org/Big:7b"]
        assert (await client.models.retrieve("fast")).owned_by == "mlx"
    mlx = ScriptedBackend(kind="mlx", models=BackendUnavailableError("gone"))
    async with openai_client(mlx, config=ALIAS) as client:
        assert [card.id async for card in client.models.list()] == []


@pytest.mark.parametrize(
    "path",
    ["org/Big:7b", "org%2FBig:7b", "org%2FBig%3A7b", "Big:7b", "big:7B", "mlx/org/Big:7b"],
)
async def test_model_is_retrieved_by_any_of_its_names(path: str):
    async with http_client(ScriptedBackend(kind="mlx", models=[FULL])) as client:
        assert (await client.get(f"/v1/models/{path}")).json()["id"] == "org/Big:7b"


@pytest.mark.parametrize("path", ["unknown", "../Big:7b", "..%2f..%2fetc%2fpasswd", "a%00b", "%ff"])
async def test_unknown_model_is_not_retrieved(path: str):
    async with http_client(ScriptedBackend(kind="mlx", models=[FULL])) as client:
        response = await client.get(f"/v1/models/{path}")
    assert response.status_code in (400, 404)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.long
async def test_list_does_not_wait_forever_for_a_silent_backend():
    there = ScriptedBackend(kind="mlx", models=[FULL])
    silent = ScriptedBackend(kind="ollama")
    silent.models = HANG
    async with http_client(there, silent) as client:
        ids = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        assert ids == ["org/Big:7b"]


async def test_health_lists_each_backend():
    well = ScriptedBackend(kind="mlx", health=Health(ok=True, version="1", counters={"active": 2}))
    ill = ScriptedBackend(kind="ollama", health=Health(ok=False, detail="Connection refused."))
    async with http_client(well, ill) as client:
        response = await client.get("/health")
    body = response.json()
    assert response.status_code == 200
    assert body["status"] == "ok"
    assert body["backends"] == {
        "mlx": {
            "ok": True,
            "detail": None,
            "version": "1",
            "breaker": "closed",
            "counters": {"active": 2},
        },
        "ollama": {
            "ok": False,
            "detail": "Connection refused.",
            "version": None,
            "breaker": "closed",
            "counters": {},
        },
    }


@pytest.mark.slow
async def test_health_does_not_wait_forever_for_a_silent_backend():
    async with http_client(ScriptedBackend(health=HANG)) as client:
        body = (await client.get("/health")).json()
    assert body["backends"]["scripted"]["ok"] is False


@pytest.mark.parametrize(
    ("method", "path", "backend"),
    [
        ("GET", "/health", "none"),
        ("GET", "/v1/models", "none"),
        ("GET", "/v1/models/m", "none"),
        ("GET", "/v1/models/x", "none"),
        ("GET", "/nope", "none"),
        ("OPTIONS", "/health", "none"),
        ("POST", "/v1/chat/completions", "scripted"),
    ],
)
async def test_every_response_names_request_and_backend(method: str, path: str, backend: str):
    async with http_client(ScriptedBackend()) as client:
        body = chat() if method == "POST" else None
        first, second = [await client.request(method, path, json=body) for _ in range(2)]
    assert first.headers["x-request-id"].startswith("req_")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-tandem-backend"] == backend


async def test_concurrent_requests_keep_their_headers_apart():
    async with http_client(ScriptedBackend()) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=chat(**{f"x{at}": 1})) for at in range(20))
        )
    assert [a.headers["x-tandem-ignored"] for a in answers] == [f"x{at}" for at in range(20)]
