"""auto_pull: off, nothing is downloaded; on, one download serves all waiting requests."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, StandIn, says_lines, stand_in
from fakes.scripted_backend import ScriptedBackend, chat, http_client, named_client

from adapters import naming, open_backend
from adapters.backend import Model, Progress
from adapters.config import MLXConfig, OllamaConfig
from adapters.errors import BackendError, BackendUnavailableError, ModelNotFoundError
from proxy.config import Config, ModelConfig, ServerConfig
from proxy.models.auto_pull import Source, to_source

CHAT = "/v1/chat/completions"
BOTH = {"mlx": naming.MLX, "ollama": naming.OLLAMA}
PULLING = ServerConfig(auto_pull=True)


class Library(ScriptedBackend):
    """A backend with only the models that were pulled."""

    def __init__(self, kind: str, error: BackendError | None = None) -> None:
        super().__init__(kind=kind, models=[])
        self.error = error
        self.fetched: list[str] = []
        self.given_up: list[str] = []
        self.began, self.left = asyncio.Event(), asyncio.Event()
        self.going_on = asyncio.Event()
        self.going_on.set()

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        self.fetched.append(model)
        self.began.set()
        yield Progress(status="pulling")
        try:
            await self.going_on.wait()
        except asyncio.CancelledError:
            self.given_up.append(model)
            self.left.set()
            raise
        if self.error is not None:
            raise self.error
        self.models = [Model(name=model)]


async def status_of(client: Any, model: str) -> int:
    return (await client.post(CHAT, json=chat(model=model))).status_code


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("llama3.2", ("ollama", "llama3.2")),
        ("llama3.2:3b", ("ollama", "llama3.2:3b")),
        ("someone/model:7b", ("ollama", "someone/model:7b")),
        ("hf.co/org/name:Q4_K_M", ("ollama", "hf.co/org/name:Q4_K_M")),
        ("box:5000/org/name", ("ollama", "box:5000/org/name")),
        ("mlx-community/Qwen3-4B-4bit", ("mlx", "mlx-community/Qwen3-4B-4bit")),
        ("ollama/someone/model", ("ollama", "someone/model")),
        ("mlx/org/name", ("mlx", "org/name")),
        ("mlx/name", None),
        ("../etc/passwd", None),
        ("/models/llama", None),
        ("a b", None),
        ("a/b/c/d", None),
        ("org/../name", None),
    ],
)
def test_form_of_a_name_selects_its_source(name: str, source: Source | None):
    assert to_source(name, BOTH) == source


def test_repository_is_pulled_by_ollama_without_mlx():
    assert to_source("org/name", {"ollama": naming.OLLAMA}) == ("ollama", "org/name")
    assert to_source("llama3.2", {"mlx": naming.MLX}) is None


def test_source_is_the_first_backend_by_name_that_can_pull():
    backends = {"apple": naming.MLX, "box": naming.OLLAMA, "studio": naming.OLLAMA}
    assert to_source("org/name", backends) == ("apple", "org/name")
    assert to_source("llama3.2:3b", backends) == ("box", "llama3.2:3b")
    assert to_source("studio/llama3.2:3b", backends) == ("studio", "llama3.2:3b")
    assert to_source("apple/llama3.2:3b", backends) is None


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record every address that is connected to or looked up."""
    seen: list[object] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def watched_connect(self: socket.socket, address: Any) -> None:
        seen.append(address)
        return connect(self, address)

    def watched_look_up(*args: Any, **more: Any) -> Any:
        seen.append(args[:2])
        return look_up(*args, **more)

    monkeypatch.setattr(socket.socket, "connect", watched_connect)
    monkeypatch.setattr(socket, "getaddrinfo", watched_look_up)
    return seen


async def test_only_the_engine_is_contacted_when_it_is_off(
    tmp_path: Path, connections: list[object]
):
    mlx_config = MLXConfig(cache_folder=str(tmp_path), huggingface_cache=False, embedded="never")
    async with stand_in() as standin:
        standin.replays("tags")
        standin.replays("ps")
        ollama_config = OllamaConfig(host=standin.host)
        async with (
            open_backend(mlx_config) as mlx,
            open_backend(ollama_config) as ollama,
            http_client(mlx, ollama) as client,
        ):
            for name in (
                "mlx-community/Nope-4bit",
                "nope:7b",
                "mlx/a/b",
                "ollama/nope",
                "hf.co/a/b",
            ):
                assert await status_of(client, name) == 404
                assert (await client.get(f"/v1/models/{name}")).status_code == 404
        assert "/api/pull" not in {seen.path for seen in standin.seen}
        place = standin.host.removeprefix("http://").split(":")
    assert {str(address) for address in connections} == {str((place[0], int(place[1])))}


async def test_missing_model_is_downloaded_and_answers():
    mlx, ollama = Library("mlx"), Library("ollama")
    async with http_client(mlx, ollama, config=Config(server=PULLING)) as client:
        assert await status_of(client, "llama3.2:3b") == 200
        assert await status_of(client, "org/name") == 200
        assert await status_of(client, "llama3.2:3b") == 200
    assert (ollama.fetched, mlx.fetched) == (["llama3.2:3b"], ["org/name"])


async def test_model_is_pulled_through_ollama():
    async with stand_in() as standin:
        has_it = asyncio.Event()
        add_tags(standin, has_it)
        async with (
            open_backend(OllamaConfig(host=standin.host, refresh=0.001)) as ollama,
            http_client(ollama, config=Config(server=PULLING)) as client,
        ):
            body = {"model": "tiny", "input": "a"}
            assert (await client.post("/v1/embeddings", json=body)).status_code == 400
        assert standin.bodies("/api/pull") == [{"model": "tiny"}]


def add_tags(standin: StandIn, has_it: asyncio.Event) -> None:
    """List `tiny`, which does not embed, after it was pulled."""

    async def tags(reply: Reply) -> None:
        tiny = b'{"name": "tiny:latest", "digest": "d", "capabilities": ["completion"], '
        tiny += b'"details": {"context_length": 8}}'
        await reply.plain(200, b'{"models": [' + (tiny if has_it.is_set() else b"") + b"]}")

    async def pull(reply: Reply) -> None:
        has_it.set()
        await says_lines({"status": "pulling manifest"}, {"status": "success"})(reply)

    standin.says("/api/tags", tags)
    standin.says("/api/pull", pull)


async def test_alias_is_downloaded_by_its_model_names():
    mlx, ollama = Library("mlx"), Library("ollama")
    own = {"mine": ModelConfig(names={"mlx": "org/name", "ollama": "a:7b"}, prefer="ollama")}
    async with http_client(mlx, ollama, config=Config(server=PULLING, models=own)) as client:
        assert await status_of(client, "mine") == 200
        assert (mlx.fetched, ollama.fetched) == ([], ["a:7b"])
        assert await status_of(client, "mlx/mine") == 200
    assert (mlx.fetched, ollama.fetched) == (["org/name"], ["a:7b"])


async def test_model_is_downloaded_by_the_named_backend():
    box, studio = Library("ollama"), Library("ollama")
    async with named_client({"box": box, "studio": studio}, Config(server=PULLING)) as client:
        assert await status_of(client, "a:7b") == 200
        assert await status_of(client, "studio/b:7b") == 200
    assert (box.fetched, studio.fetched) == (["a:7b"], ["b:7b"])


@pytest.mark.parametrize(
    ("error", "status"),
    [(ModelNotFoundError("no such model"), 404), (BackendUnavailableError("no way out"), 503)],
)
async def test_failed_download_keeps_status_and_not_the_words_of_a_host(
    error: BackendError, status: int
):
    ollama = Library("ollama", error)
    async with http_client(ollama, config=Config(server=PULLING)) as client:
        response = await client.post(CHAT, json=chat(model="nope"))
    assert response.status_code == status
    message = response.json()["error"]["message"]
    assert "'nope'" in message
    assert error.message not in message


HOSTS = ["evil.example/a/b", "127.0.0.1:22/a/b", "box:5000/a", "ollama/evil.example/a/b:7b"]


@pytest.mark.parametrize("name", HOSTS)
async def test_request_does_not_choose_the_host_of_a_download(name: str):
    ollama = Library("ollama")
    async with http_client(ollama, config=Config(server=PULLING)) as client:
        response = await client.post(CHAT, json=chat(model=name))
    assert response.status_code == 404
    assert "`server.auto_pull_hosts`" in response.json()["error"]["message"]
    assert ollama.fetched == []


async def test_download_from_allowed_host():
    ollama = Library("ollama")
    server = ServerConfig(auto_pull=True, auto_pull_hosts=("HF.co", "box:5000"))
    async with http_client(ollama, config=Config(server=server)) as client:
        assert await status_of(client, "hf.co/org/model:Q4_K_M") == 200
        assert await status_of(client, "box:5000/org/model") == 200
        assert await status_of(client, "box/org/model") == 404
    assert ollama.fetched == ["hf.co/org/model:Q4_K_M", "box:5000/org/model"]


async def test_alias_names_any_host():
    ollama = Library("ollama")
    own = {"mine": ModelConfig(names={"ollama": "hf.co/org/model:Q4_K_M"})}
    async with http_client(ollama, config=Config(server=PULLING, models=own)) as client:
        assert await status_of(client, "mine") == 200
    assert ollama.fetched == ["hf.co/org/model:Q4_K_M"]


async def test_slow_download_is_cancelled():
    ollama = Library("ollama")
    ollama.going_on.clear()
    config = Config(server=ServerConfig(auto_pull=True, pull_timeout=0.05))
    async with http_client(ollama, config=config) as client:
        assert await status_of(client, "slow") == 504
    assert ollama.given_up == ["slow"]


async def test_concurrent_requests_share_one_download():
    ollama = Library("ollama")
    ollama.going_on.clear()
    async with http_client(ollama, config=Config(server=PULLING)) as client:
        posting = [asyncio.create_task(status_of(client, "llama3.2")) for _ in range(8)]
        await ollama.began.wait()
        posting[0].cancel()
        ollama.going_on.set()
        assert {await each for each in posting[1:]} == {200}
    assert (ollama.fetched, ollama.given_up) == (["llama3.2"], [])


async def test_download_ends_when_its_last_request_leaves():
    ollama = Library("ollama")
    ollama.going_on.clear()
    async with http_client(ollama, config=Config(server=PULLING)) as client:
        posting = asyncio.create_task(status_of(client, "llama3.2"))
        await ollama.began.wait()
        posting.cancel()
        await ollama.left.wait()
        ollama.going_on.set()
        assert await status_of(client, "llama3.2") == 200
    assert len(ollama.fetched) == 2


async def test_retrieving_a_model_does_not_download_it():
    ollama = Library("ollama")
    async with http_client(ollama, config=Config(server=PULLING)) as client:
        assert (await client.get("/v1/models/llama3.2")).status_code == 404
    assert ollama.fetched == []
