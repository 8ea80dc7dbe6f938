"""`GET /api/connect`: the settings of `tandem connect`, for the page."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.backend import Model
from proxy.connect.clients import CLIENTS

MODEL = Model(name="org/m", context_length=4096, capabilities=frozenset({"chat", "tools"}))


async def settings(**query: Any) -> dict[str, Any]:
    async with http_client(ScriptedBackend(models=[MODEL])) as client:
        query = {"url": "http://box:8006", **query}
        response = await client.get("/api/connect", params=query)
        assert response.status_code == 200, response.text
        return response.json()


async def test_every_client_is_there_with_the_address_and_the_model():
    answer = await settings(model="org/m")
    assert [each["client"] for each in answer["clients"]] == list(CLIENTS)
    texts = {
        each["client"]: "".join(part["text"] for part in each["texts"])
        for each in answer["clients"]
    }
    assert all("http://box:8006" in text for text in texts.values())
    assert '"context_window": 4096' in texts["codex"]
    assert "org/m" in texts["openai-node"]


async def test_files_are_those_of_any_user():
    answer = await settings(model="org/m")
    (codex,) = [each for each in answer["clients"] if each["client"] == "codex"]
    titles = [part["title"] for part in codex["texts"]]
    assert titles == ["~/.codex/config.toml", "~/.codex/tandem-models.json"]


async def test_a_key_has_a_placeholder_and_is_not_sent():
    answer = await settings(keyed=True)
    (curl,) = [each for each in answer["clients"] if each["client"] == "curl"]
    assert f"Bearer {answer['key']}" in curl["texts"][0]["text"]
    assert "MODEL" in curl["texts"][0]["text"]


async def test_an_unknown_model_is_not_found():
    async with http_client(ScriptedBackend(models=[MODEL])) as client:
        response = await client.get("/api/connect", params={"url": "http://b", "model": "none"})
    assert response.status_code == 404


async def test_texts_are_made_outside_the_event_loop():
    """The first of them imports parsers, for which other answers would wait."""
    threads = RecordingExecutor()
    asyncio.get_running_loop().set_default_executor(threads)
    await settings(model="org/m")
    assert threads.calls > 0


class RecordingExecutor(ThreadPoolExecutor):
    def __init__(self) -> None:
        super().__init__(1)
        self.calls = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        return super().submit(fn, *args, **kwargs)
