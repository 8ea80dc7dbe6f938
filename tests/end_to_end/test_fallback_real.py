"""A real Ollama that is killed, or that hangs, under sixteen clients of a real server with MLX."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from fakes.waiting import pause, until
from msgspec import Struct
from servers.ollama_server import EMBED, PLAIN, OllamaProcess, own_ollama
from servers.server_process import Running, serving, write

from adapters.mlx.models.bundled import EMBEDDED

pytestmark = [pytest.mark.ollama, pytest.mark.long, pytest.mark.timeout(240)]

ROWS = 4
"""Answers that this Ollama gives at a time; all others wait without a byte."""
CONFIG = """
backends:
  ollama: {{host: '{host}', token_timeout: 3, first_token_timeout: 12}}
  mlx: {{embedded: always, huggingface_cache: false}}
models: {{both: {{mlx: {mlx}, ollama: '{ollama}', prefer: ollama}}}}
"""
STORY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
    "temperature": 0,
    "max_tokens": 900,
}
SHORT: dict[str, Any] = STORY | {"max_tokens": 8}


class Told(Struct):
    """The outcome of one request, as its client sees it."""

    text: str = ""
    status: int | None = None
    error: str | None = None
    """Its code."""
    headers: dict[str, str] = {}
    ended: float = 0.0

    @property
    def backend(self) -> str | None:
        return self.headers.get("x-tandem-backend")


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaProcess]:
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", str(ROWS))
    with own_ollama() as server:
        yield server


@pytest.fixture
def server(process: OllamaProcess, tmp_path: Path) -> Iterator[Running]:
    config = CONFIG.format(host=process.host, mlx=EMBEDDED, ollama=PLAIN)
    with serving(write(tmp_path, config)) as running:
        yield running


@asynccontextmanager
async def connected(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"http://127.0.0.1:{server.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        yield client


async def observed(told: Told, work: Coroutine[Any, Any, None]) -> Told:
    try:
        await work
    except openai.APIStatusError as error:
        told.status, told.error = error.status_code, error.code
        told.headers = dict(error.response.headers)
    except openai.APIError as error:
        told.error = error.code
    told.ended = time.monotonic()
    return told


async def streamed(client: openai.AsyncOpenAI, told: Told, **fields: Any) -> None:
    answer = await client.chat.completions.with_raw_response.create(stream=True, **fields)
    told.headers, told.status = dict(answer.headers), answer.status_code
    async for chunk in answer.parse():
        told.text += chunk.choices[0].delta.content or "" if chunk.choices else ""


async def whole(client: openai.AsyncOpenAI, told: Told, **fields: Any) -> None:
    answer = await client.chat.completions.with_raw_response.create(**fields)
    told.headers, told.status = dict(answer.headers), answer.status_code
    told.text = answer.parse().choices[0].message.content or ""


async def embedded(client: openai.AsyncOpenAI, told: Told) -> None:
    answer = await client.embeddings.with_raw_response.create(model=EMBED, input="The sea.")
    told.headers, told.status = dict(answer.headers), answer.status_code


class Crowd:
    """Sixteen clients. The first four are in mid-stream when it happens; the last one embeds."""

    def __init__(self, server: Running, client: openai.AsyncOpenAI) -> None:
        self._server = server
        self._client = client
        self.speaking: list[asyncio.Task[Told]] = []
        self.waiting: list[asyncio.Task[Told]] = []
        self.forced: list[asyncio.Task[Told]] = []
        self.embedding: list[asyncio.Task[Told]] = []

    async def gather(self) -> None:
        models = ("both", "both", f"ollama/{PLAIN}", f"ollama/{PLAIN}")
        speaking = [Told() for _ in models]
        for told, model in zip(speaking, models, strict=True):
            self._ask(self.speaking, told, streamed(self._client, told, model=model, **STORY))
        await until(lambda: all(told.text for told in speaking), 100)
        for ask in (streamed, whole) * 4:
            told = Told()
            self._ask(self.waiting, told, ask(self._client, told, model="both", **SHORT))
        for ask in (streamed, whole, whole):
            told = Told()
            model = f"ollama/{PLAIN}"
            self._ask(self.forced, told, ask(self._client, told, model=model, **SHORT))
        await self._until_ollama_has(len(self._tasks))
        assert not [task for task in self._tasks if task.done()]

    async def embed(self) -> None:
        told = Told()
        self._ask(self.embedding, told, embedded(self._client, told))

    async def _until_ollama_has(self, requests: int) -> None:
        async def is_reached() -> bool:
            _, body = await asyncio.to_thread(self._server.get, "/health")
            return json.loads(body)["backends"]["ollama"]["counters"]["active"] == requests

        await until(is_reached, 100)

    @property
    def _tasks(self) -> list[asyncio.Task[Told]]:
        return [*self.speaking, *self.waiting, *self.forced]

    def _ask(
        self, group: list[asyncio.Task[Told]], told: Told, work: Coroutine[Any, Any, None]
    ) -> None:
        group.append(asyncio.create_task(observed(told, work)))


async def until_ollama_answers(client: openai.AsyncOpenAI, model: str) -> None:
    async def answers() -> bool:
        told = await observed(told := Told(), whole(client, told, model=model, **SHORT))
        return (told.status, told.backend) == (200, "ollama")

    await until(answers, 100)


async def warmed(client: openai.AsyncOpenAI) -> None:
    """Neither engine is to be loading when it happens."""
    for model in (f"mlx/{EMBEDDED}", f"ollama/{PLAIN}"):
        await client.chat.completions.create(model=model, **SHORT)
    await client.embeddings.create(model=EMBED, input="The sea.")


def check_fallback(told: Told) -> None:
    assert (told.status, told.error, told.backend) == (200, None, "mlx")
    assert told.headers["x-tandem-fallback-from"].startswith("ollama; reason=")
    assert told.text


def check_broken(told: Told) -> None:
    assert told.text
    assert told.error in ("bad_upstream", "backend_timeout")


def check_refused(told: Told) -> None:
    assert told.status in (502, 503, 504)
    assert told.backend == "ollama"


async def used_again(client: openai.AsyncOpenAI) -> None:
    """On a quiet machine within 5 s, loading the model included."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        for model in (f"ollama/{PLAIN}", "both"):
            await until_ollama_answers(client, model)
            print(f"{model} is answered by Ollama again after {time.monotonic() - began:.1f} s")


async def test_ollama_is_killed_under_sixteen_clients(server: Running, process: OllamaProcess):
    async with connected(server) as client:
        await warmed(client)
        crowd = Crowd(server, client)
        await crowd.gather()
        await crowd.embed()
        process.kill()
        killed = time.monotonic()
        broken, refused, fallen, embedded = [
            await asyncio.gather(*group)
            for group in (crowd.speaking, crowd.forced, crowd.waiting, crowd.embedding)
        ]
        for told in broken:
            check_broken(told)
        for told in refused:
            check_refused(told)
        for told in fallen:
            check_fallback(told)
        late = [told.ended - killed for told in (*broken, *refused, *embedded)]
        print("terminal errors after", sorted(round(each, 2) for each in late), "s")
        assert max(late) < 1
        process.start()
        await used_again(client)


async def test_ollama_hangs_under_sixteen_clients(server: Running, process: OllamaProcess):
    async with connected(server) as client:
        await warmed(client)
        crowd = Crowd(server, client)
        await crowd.gather()
        process.pause()
        paused = time.monotonic()
        await crowd.embed()
        broken, refused, fallen, embedded = [
            await asyncio.gather(*group)
            for group in (crowd.speaking, crowd.forced, crowd.waiting, crowd.embedding)
        ]
        for told in broken:
            check_broken(told)
        for told in (*refused, *embedded):
            check_refused(told)
        for told in fallen:
            check_fallback(told)
        late = max(told.ended for told in fallen) - paused
        print(f"the last request that could be answered elsewhere was answered after {late:.1f} s")
        began = time.monotonic()
        told = await observed(told := Told(), whole(client, told, model="both", **SHORT))
        assert (told.status, told.backend) == (200, "mlx")
        assert "x-tandem-fallback-from" not in told.headers
        print(f"the next one after {time.monotonic() - began:.1f} s")
        process.signal(signal.SIGCONT)
        await used_again(client)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[OllamaProcess, OllamaProcess]]:
    """Each gives one answer at a time."""
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "1")
    with own_ollama() as one, own_ollama() as other:
        yield one, other


@pytest.fixture
async def client_of_two(
    two: tuple[OllamaProcess, OllamaProcess], tmp_path: Path
) -> AsyncIterator[openai.AsyncOpenAI]:
    hosts = ", ".join(f"'{each.host}'" for each in two)
    config = f"backends: {{mlx: null, ollama: {{hosts: [{hosts}], token_timeout: 3}}}}"
    with serving(write(tmp_path, config)) as server:
        async with connected(server) as client:
            yield client


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_one_of_two_ollamas_fails_in_the_middle_of_whole_answers(
    two: tuple[OllamaProcess, OllamaProcess], client_of_two: openai.AsyncOpenAI, fault: str
):
    fields = STORY | {"max_tokens": 200, "model": PLAIN}
    told = [Told() for _ in range(8)]
    asked = [
        asyncio.create_task(observed(each, whole(client_of_two, each, **fields))) for each in told
    ]
    await until(lambda: sum(bool(each.text) for each in told) >= 2, 100)
    await pause(0.5)  # The next are in the middle: each takes seconds.
    if fault == "killed":
        two[0].kill()
    else:
        os.killpg(two[0].group, signal.SIGSTOP)
    await asyncio.gather(*asked)
    assert [(each.status, each.error) for each in told] == [(200, None)] * 8
    assert all(each.text for each in told)


async def test_one_of_two_ollamas_is_killed_under_eight_clients(
    two: tuple[OllamaProcess, OllamaProcess], client_of_two: openai.AsyncOpenAI
):
    client, dies = client_of_two, two[0]
    told = [Told() for _ in range(8)]
    fields = STORY | {"max_tokens": 200, "model": PLAIN}
    asked = [asyncio.create_task(observed(each, streamed(client, each, **fields))) for each in told]
    await until(lambda: sum(bool(each.text) for each in told) >= 2, 100)
    before = [bool(each.text) for each in told]
    dies.kill()
    await asyncio.gather(*asked)
    failed = [(each.error, spoke) for each, spoke in zip(told, before, strict=True) if each.error]
    # At most one was speaking by the host that died: it gives one answer at a time.
    assert failed in ([], [("bad_upstream", True)])
    assert all(each.text for each in told)
    after = await observed(Told(), whole(client, last := Told(), **(SHORT | {"model": PLAIN})))
    assert (after.error, last.status) == (None, 200)
