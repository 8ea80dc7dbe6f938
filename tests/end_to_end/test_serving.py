"""The whole thing: the real server, real models, the official SDK, and clients that leave."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.waiting import until_now
from openai import AsyncOpenAI, NotFoundError
from openai.types.chat import ChatCompletionMessageParam
from servers.server_process import Running, serving, write

pytestmark = pytest.mark.process

MLX = "SmolLM2-135M-Instruct"
OLLAMA = "smollm2:135m"
PARIS: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]
BACKENDS = [
    pytest.param("mlx", MLX, id="mlx"),
    pytest.param("ollama", OLLAMA, id="ollama", marks=pytest.mark.ollama),
]


@pytest.fixture(scope="module")
def mlx_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("mlx-only")
    text = "backends: {mlx: {huggingface_cache: false}, ollama: null}\n"
    with serving(write(folder, text)) as running:
        yield running


@pytest.fixture(scope="module")
def with_ollama(tmp_path_factory: pytest.TempPathFactory, ollama_host: str) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("both")
    text = f"backends: {{mlx: {{huggingface_cache: false}}, ollama: {{host: '{ollama_host}'}}}}\n"
    with serving(write(folder, text)) as running:
        yield running


@pytest.fixture
def server(request: pytest.FixtureRequest, kind: str) -> Running:
    return request.getfixturevalue("mlx_only" if kind == "mlx" else "with_ollama")


def counters(server: Running, kind: str) -> dict[str, int]:
    return json.loads(server.get("/health")[1])["backends"][kind]["counters"]


def until_active(server: Running, kind: str) -> None:
    until_now(lambda: counters(server, kind)["active"] > 0)


def until_idle(server: Running, kind: str, within: float) -> float:
    """Return the seconds until no request and no row is left."""

    def is_idle() -> bool:
        now = counters(server, kind)
        return now["active"] == 0 and now.get("rows", 0) == 0

    began = time.monotonic()
    until_now(is_idle, within)
    return time.monotonic() - began


@pytest.mark.parametrize(("kind", "model"), BACKENDS)
def test_the_sdk_learns_the_capital_of_france(server: Running, kind: str, model: str) -> None:
    with server.sdk() as client:
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=PARIS, max_tokens=20, temperature=0
        )
        whole = raw.parse()
        stream = client.chat.completions.create(
            model=model,
            messages=PARIS,
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Paris" in text
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    # The second may read its prompt out of the first one's cache, and then says so.
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert all(getattr(chunks[-1].usage, c) == getattr(whole.usage, c) for c in counts)
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert raw.headers["x-tandem-backend"] == kind
    assert raw.headers["x-request-id"].startswith("req_")


@pytest.mark.long
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "prompt", ["All work and no play. " * 300, "Write a very long story about the sea."]
)
@pytest.mark.parametrize(("kind", "model"), BACKENDS)
def test_a_client_that_is_killed_stops_the_work(
    server: Running, kind: str, model: str, prompt: str, stream: bool
) -> None:
    """The long prompt is still being read when the client dies, the short one is answered."""
    with server.sdk() as client:
        client.chat.completions.create(model=model, messages=PARIS, max_tokens=1)
    before = counters(server, kind)["cancelled"]
    # The number keeps the long prompt out of Ollama's prefix cache.
    content = f"{time.monotonic()} {prompt}" if len(prompt) > 100 else prompt
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "stream": stream,
            "max_tokens": 1500,
            "temperature": 0,
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body)
        until_active(server, kind)
    until_idle(server, kind, within=30)
    assert counters(server, kind)["cancelled"] == before + 1
    with server.sdk() as client:
        again = client.chat.completions.create(model=model, messages=PARIS, max_tokens=2)
    assert again.usage is not None


@pytest.mark.long
@pytest.mark.parametrize("kind", ["mlx"])
async def test_eight_at_once_get_what_each_gets_alone_though_one_leaves(
    server: Running, kind: str
) -> None:
    prompts = [f"Write a story about the number {number}." for number in range(7)]
    async with AsyncOpenAI(
        base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x", max_retries=0
    ) as client:

        async def answer(prompt: str) -> str | None:
            completion = await client.chat.completions.create(
                model=MLX,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=14,
                temperature=0,
            )
            return completion.choices[0].message.content

        async def leave() -> None:
            stream = await client.chat.completions.create(
                model=MLX, messages=PARIS, max_tokens=400, seed=1, temperature=1.5, stream=True
            )
            async with stream:
                for _ in range(6):
                    await anext(aiter(stream))

        alone = [await answer(prompt) for prompt in prompts]
        *together, _ = await asyncio.gather(*(answer(prompt) for prompt in prompts), leave())
    assert together == alone
    until_idle(server, kind, within=30)


@pytest.mark.ollama
def test_both_backends_are_listed_and_can_be_forced(with_ollama: Running) -> None:
    with with_ollama.sdk() as client:
        listed = {model.id: model.owned_by for model in client.models.list()}
        assert listed[MLX] == "mlx"
        assert listed[OLLAMA] == "ollama"
        assert client.models.retrieve(f"ollama/{OLLAMA}").id == OLLAMA
        with pytest.raises(NotFoundError, match=f"Did you mean '{OLLAMA}'"):
            client.chat.completions.create(model="smollm2:136m", messages=PARIS)
        for name, kind in ((f"ollama/{OLLAMA}", "ollama"), (f"mlx/{MLX}", "mlx")):
            raw = client.chat.completions.with_raw_response.create(
                model=name, messages=PARIS, max_tokens=2
            )
            assert raw.headers["x-tandem-backend"] == kind
        with pytest.raises(NotFoundError, match="not found"):
            client.chat.completions.create(model=f"mlx/{OLLAMA}", messages=PARIS)


def test_a_path_in_a_request_is_never_followed(mlx_only: Running, tmp_path: Path) -> None:
    with mlx_only.sdk() as client:
        for name in (f"mlx/{tmp_path}", str(tmp_path), "../../etc/passwd", f"mlx/../{MLX}"):
            with pytest.raises(NotFoundError):
                client.chat.completions.create(model=name, messages=PARIS)
