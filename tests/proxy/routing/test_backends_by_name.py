"""Backends by name: several of one kind, from the config to the wire."""

import json
from typing import Any

import httpx2
import pytest
from fakes.recorded_ollama import Reply, StandIn, recording, says_lines, stand_in
from fakes.scripted_backend import EVERYTHING, ScriptedBackend, chat, named_client

from adapters.backend import Model
from adapters.config import OllamaConfig
from adapters.errors import BackendUnavailableError
from proxy.config import Config, ModelConfig, ServerConfig

CHAT = "/v1/chat/completions"
PAIR = Config(
    backends={"box": OllamaConfig(), "studio": OllamaConfig()},
    models={"fast": ModelConfig(names={"box": "m:7b", "studio": "n:8b"}, prefer="box")},
)


def ollama(*names: str, **more: Any) -> ScriptedBackend:
    return ScriptedBackend(kind="ollama", models=[Model(name=name) for name in names], **more)


def pair() -> dict[str, ScriptedBackend]:
    return {"box": ollama("m:7b"), "studio": ollama("n:8b")}


async def served_by(client: httpx2.AsyncClient, model: str, **fields: Any) -> str:
    headers = fields.pop("headers", {})
    response = await client.post(CHAT, json=chat(model=model, **fields), headers=headers)
    assert response.status_code == 200, response.text
    return response.headers["x-tandem-backend"]


@pytest.mark.parametrize("name", ["box", "studio"])
async def test_backend_is_forced_by_its_name(name: str):
    backends = {"box": ollama("m:7b"), "studio": ollama("m:7b")}
    async with named_client(backends) as client:
        assert await served_by(client, "m:7b", headers={"x-tandem-backend": name}) == name
        assert await served_by(client, f"{name}/m:7b") == name
        assert await served_by(client, "m:7b", backend=name) == name
    assert [len(backends[each].requests) for each in backends] == (
        [3, 0] if name == "box" else [0, 3]
    )


async def test_kind_that_is_no_backends_name_forces_nothing():
    async with named_client(pair()) as client:
        response = await client.post(CHAT, json=chat(model="m:7b", backend="ollama"))
    assert response.status_code == 400
    assert "use box or studio" in response.json()["error"]["message"]


async def test_alias_has_a_model_on_each():
    backends = pair()
    async with named_client(backends, PAIR) as client:
        assert await served_by(client, "fast") == "box"
        assert await served_by(client, "n:8b") == "studio"  # A backend's own name prefers it.
        assert await served_by(client, "studio/fast") == "studio"
        card = (await client.get("/v1/models/fast")).json()
        by_backend = (await client.get("/api/models")).json()["backends"]
    assert backends["box"].requests[0].model == "m:7b"
    assert {request.model for request in backends["studio"].requests} == {"n:8b"}
    assert card["owned_by"] == "box,studio"
    assert [(each["backend"], each["name"]) for each in card["backends"]] == [
        ("box", "m:7b"),
        ("studio", "n:8b"),
    ]
    names = {name: [each["name"] for each in it["models"]] for name, it in by_backend.items()}
    assert names == {"box": ["m:7b"], "studio": ["n:8b"]}


async def test_one_stands_in_for_the_other():
    backends = pair()
    backends["box"].script = [BackendUnavailableError("down")]
    async with named_client(backends, PAIR) as client:
        response = await client.post(CHAT, json=chat(model="fast"))
        health = (await client.get("/health")).json()
        rows = (await client.get("/api/performance/comparison")).json()["models"][0]["live"]
    assert response.headers["x-tandem-backend"] == "studio"
    assert response.headers["x-tandem-fallback-from"] == "box; reason=backend_unavailable"
    assert health["fallbacks"] == {"box": {"backend_unavailable": 1}}
    assert health["backends"].keys() == {"box", "studio"}
    assert [(row["backend"], row["name"]) for row in rows] == [("studio", "n:8b")]


@pytest.mark.parametrize(
    ("digest", "roots"), [("d1", ["a:7b"]), ("d2", ["a:7b", "b:7b"])], ids=["same", "other"]
)
async def test_tags_of_one_file_are_one_model_only_with_one_digest(digest: str, roots: list[str]):
    def tag(name: str, digest: str) -> ScriptedBackend:
        return ScriptedBackend(
            kind="ollama", models=[Model(name=name, origin="sha256:a", exact=True, digest=digest)]
        )

    backends = {"box": tag("a:7b", "d1"), "studio": tag("b:7b", digest)}
    async with named_client(backends) as client:
        cards = (await client.get("/v1/models")).json()["data"]
    assert sorted({card["root"] for card in cards}) == roots


async def test_refusal_names_the_backend_that_could():
    backends = {"box": ollama("m:7b", honours=EVERYTHING - {"n"}), "studio": ollama("n:8b")}
    async with named_client(backends) as client:
        response = await client.post(CHAT, json=chat(model="m:7b", n=2))
    assert response.json()["error"]["message"] == (
        "'n' is not supported for 'm:7b' on box. A model on mlx or studio could honour it."
    )


@pytest.mark.parametrize(
    ("away", "model", "status"),
    [
        (["box", "studio"], "x:1b", 503),
        (["box"], "x:1b", 404),
        (["box"], "box/x", 503),
        (["box", "studio"], "mlx/x", 404),
        (["box", "studio"], "x", 404),  # It may be MLX's, which is there.
    ],
)
async def test_name_that_only_unreachable_backends_may_have_is_unavailable(
    away: list[str], model: str, status: int
):
    backends = pair() | {"mlx": ScriptedBackend(kind="mlx")}
    for name in away:
        backends[name].models = BackendUnavailableError("gone")
    async with named_client(backends) as client:
        response = await client.post(CHAT, json=chat(model=model))
    assert response.status_code == status
    if status == 503:
        assert all(name in response.json()["error"]["message"] for name in away)


async def test_mlx_under_another_name_has_the_urls_of_mlx():
    mlx = ScriptedBackend(kind="mlx", models=[Model(name="m")])
    async with named_client({"apple": mlx}) as client:
        listed = (await client.get("/api/mlx/models")).json()["models"]
        loaded = (await client.post("/api/mlx/load/m")).json()
        answer = await client.post("/api/mlx/generate", json={"model_id": "m", "prompt": "Hi"})
    assert [each["backend"] for each in listed] == ["apple"]
    assert loaded["backend"] == "apple"
    assert answer.headers["x-tandem-backend"] == "apple"


class Server:
    """A recorded Ollama that remembers what is loaded."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self.loaded: dict[str, int] = {}
        standin.replays("tags")
        standin.replays("version")
        standin.replays("show-llama", "/api/show")
        standin.says("/api/ps", self._ps)
        standin.says("/api/chat", self._chat)

    @property
    def chats(self) -> list[str]:
        """The models that answered."""
        bodies = self.standin.bodies("/api/chat")
        return [body["model"] for body in bodies if body.get("keep_alive") != 0]

    async def _ps(self, reply: Reply) -> None:
        models = [
            {"name": name, "size": 0, "context_length": context, "expires_at": "1"}
            for name, context in self.loaded.items()
        ]
        await reply.plain(200, json.dumps({"models": models}).encode())

    async def _chat(self, reply: Reply) -> None:
        body = self.standin.bodies("/api/chat")[-1]
        if body.get("keep_alive") == 0:
            del self.loaded[body["model"]]
            await reply.plain(200, b'{"done": true}')
            return
        self.loaded[body["model"]] = body["options"]["num_ctx"]
        lines = "".join(recording("chat-stream")["response"]["chunks"]).splitlines()
        await says_lines(*(line.encode() for line in lines))(reply)


def two(box: Server, studio: Server, **server: Any) -> Config:
    def at(it: Server) -> OllamaConfig:
        return OllamaConfig(host=it.standin.host, refresh=0.001)

    return Config(
        server=ServerConfig(**server),
        backends={"mlx": None, "ollama": None, "box": at(box), "studio": at(studio)},
        models={
            "fast": ModelConfig(
                names={"box": "smollm2:135m", "studio": "smollm2-tools"}, prefer="box"
            )
        },
    )


async def test_two_recorded_ollamas_answer_by_name():
    async with stand_in() as one, stand_in() as other:
        box, studio = Server(one), Server(other)
        async with named_client(None, two(box, studio)) as client:
            forced = {"x-tandem-backend": "studio"}
            assert await served_by(client, "smollm2:135m", headers=forced) == "studio"
            assert await served_by(client, "box/smollm2:135m") == "box"
            assert await served_by(client, "fast") == "box"
            assert await served_by(client, "studio/fast") == "studio"
            one.says("/api/chat", says_lines({"error": "out of order"}))
            response = await client.post(CHAT, json=chat(model="fast"))
            health = (await client.get("/health")).json()
    assert response.headers["x-tandem-backend"] == "studio"
    assert response.headers["x-tandem-fallback-from"].startswith("box; reason=")
    assert health["backends"].keys() == {"box", "studio"}
    tools = "smollm2-tools:latest"
    assert studio.chats == ["smollm2:135m", tools, tools]


async def test_two_recorded_ollamas_of_this_machine_share_the_memory():
    async with stand_in() as one, stand_in() as other:
        box, studio = Server(one), Server(other)
        # A model and its context take 192 MB.
        async with named_client(None, two(box, studio, memory_bytes=300_000_000)) as client:
            await served_by(client, "box/smollm2:135m")
            memory = (await client.get("/health")).json()["memory"]
            assert [(each["backend"], each["model"]) for each in memory["models"]] == [
                ("box", "smollm2:135m")
            ]
            await served_by(client, "studio/smollm2:135m")
            memory = (await client.get("/health")).json()["memory"]
    assert [(each["backend"], each["model"]) for each in memory["models"]] == [
        ("studio", "smollm2:135m")
    ]
    assert memory["used"] <= memory["budget"] == 300_000_000
    assert (box.loaded, list(studio.loaded)) == ({}, ["smollm2:135m"])
