"""The wait for a first line, with and without another backend that could answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, Script, StandIn, says_lines, stand_in
from fakes.waiting import pause, until
from msgspec.structs import replace

from adapters import sink
from adapters.config import OllamaConfig
from adapters.errors import BackendBusyError, BackendTimeoutError
from adapters.events import Event, TextDelta
from adapters.ollama.backend import OllamaBackend
from adapters.request import EmbeddingRequest, GenerationRequest, Message, TextPart
from adapters.upstream.limits import Limits

WORD, DONE = {"message": {"content": "A"}}, {"message": {}, "done": True}
TAG = {"name": "m:latest", "details": {"context_length": 4096}}


QUICK = Limits(look_every=0.05, look=0.1, first_probe=0.05, lookup=0.1)
RESPONDING = replace(QUICK, look=20.0, lookup=20.0)
"""For servers that respond to each look, however busy the machine is."""


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """A server that has loaded `m`, and responds to /api/version."""
    async with stand_in() as server:
        server.replays("version")
        says_json(server, "/api/tags", {"models": [TAG]})
        says_json(server, "/api/ps", {"models": [{"name": "m:latest", "context_length": 4096}]})
        says_json(server, "/api/generate", {"response": "1", "done": True})
        yield server


@pytest.fixture
async def backend(standin: StandIn) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(
        OllamaConfig(host=standin.host, first_token_timeout=5, refresh=0.02), QUICK
    )
    yield backend
    await backend.aclose()


def says_json(standin: StandIn, path: str, body: Any) -> None:
    async def script(reply: Reply) -> None:
        await reply.plain(200, json.dumps(body).encode())

    standin.says(path, script)


def says_after(seconds: float, *lines: Any) -> Script:
    async def script(reply: Reply) -> None:
        await pause(seconds)
        await says_lines(*(lines or (WORD, DONE)))(reply)

    return script


async def hangs(reply: Reply) -> None:
    await reply.gone()


async def one_word(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(json.dumps(WORD).encode() + b"\n")
    await reply.gone()


def chat(**fields: Any) -> GenerationRequest:
    message = Message(role="user", content=(TextPart("Hi"),))
    return GenerationRequest(**({"model": "m", "prompt": (message,)} | fields))


async def answer(backend: OllamaBackend, **fields: Any) -> list[Event]:
    async with asyncio.timeout(20):
        return [event async for event in sink.events(backend, chat(**fields))]


async def silent(backend: OllamaBackend, **fields: Any) -> None:
    with pytest.raises(BackendTimeoutError):
        await answer(backend, **fields)


@pytest.mark.parametrize("n", [1, 3])
async def test_silence_ends_with_the_deadline_of_the_request(
    standin: StandIn, backend: OllamaBackend, n: int
):
    standin.says("/api/chat", hangs)
    await silent(backend, patience=0.1, n=n)


@pytest.mark.parametrize("n", [1, 3])
async def test_silence_ends_with_the_configured_timeout_without_a_deadline(
    standin: StandIn, backend: OllamaBackend, n: int
):
    standin.says("/api/chat", says_after(0.3))
    assert TextDelta("A") in await answer(backend, n=n)


@pytest.mark.parametrize("n", [1, 3])
async def test_model_that_is_loaded_first_may_take_longer(
    standin: StandIn, backend: OllamaBackend, n: int
):
    says_json(standin, "/api/ps", {"models": []})
    standin.says("/api/chat", says_after(0.3))
    assert TextDelta("A") in await answer(backend, patience=0.1, n=n)


@pytest.mark.slow
async def test_request_that_comes_during_a_load_may_take_longer(standin: StandIn):
    """`/api/ps` lists a model from the start of its load."""
    says_json(standin, "/api/ps", {"models": []})
    standin.says("/api/chat", says_after(0.4))
    config = OllamaConfig(host=standin.host, first_token_timeout=20, refresh=0.02)
    async with aclosing(OllamaBackend(config, RESPONDING)) as backend:
        first = asyncio.create_task(answer(backend, patience=0.1))
        await standin.has_seen("/api/chat")
        await pause(0.15)  # Longer than its patience.
        says_json(standin, "/api/ps", {"models": [{"name": "m:latest", "context_length": 4096}]})
        await asyncio.gather(first, answer(backend, patience=0.1))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.slow
async def test_server_that_answers_other_requests_is_busy_and_not_at_fault(
    standin: StandIn, backend: OllamaBackend, n: int
):
    standin.says("/api/chat", one_word)
    other = sink.events(backend, chat())
    await anext(other)
    standin.says("/api/chat", hangs)
    for _ in range(4):
        with pytest.raises(BackendBusyError):
            await answer(backend, patience=0.1, n=n)
    assert backend.is_well("m")
    await other.aclose()


@pytest.mark.parametrize("n", [1, 3])
async def test_server_that_answers_other_requests_is_busy_without_a_deadline_too(
    standin: StandIn, n: int
):
    config = OllamaConfig(host=standin.host, first_token_timeout=0.3)
    async with aclosing(OllamaBackend(config, RESPONDING)) as backend:
        standin.says("/api/chat", one_word)
        async with aclosing(sink.events(backend, chat())) as speaking:
            await anext(speaking)
            standin.says("/api/chat", hangs)
            waiting_ones = [answer(backend, n=n) for _ in range(4)]
            told = await asyncio.gather(*waiting_ones, return_exceptions=True)
            assert {type(each) for each in told} == {BackendBusyError}
            assert (await backend.health()).breaker == "closed"


@pytest.mark.slow
async def test_server_that_hangs_is_not_waited_for_even_if_it_may_be_loading(
    standin: StandIn, backend: OllamaBackend
):
    says_json(standin, "/api/ps", {"models": []})
    await backend.list_models()
    for path in ("/api/version", "/api/chat", "/api/show", "/api/ps"):
        standin.says(path, hangs)
    await silent(backend, patience=4)


@pytest.mark.slow
async def test_server_that_misses_one_look_is_waited_for(standin: StandIn, backend: OllamaBackend):
    looks = 0
    is_patient = asyncio.Event()

    async def at_times(reply: Reply) -> None:
        nonlocal looks
        looks += 1
        if looks == 4:
            is_patient.set()
        if looks % 2:
            await reply.gone()
        else:
            await reply.plain(404, b"What?")

    async def answers_late(reply: Reply) -> None:
        await is_patient.wait()
        await says_lines(WORD, DONE)(reply)

    standin.says("/api/version", at_times)
    standin.says("/api/chat", answers_late)
    assert TextDelta("A") in await answer(backend, patience=20)


@pytest.mark.slow
async def test_hanging_server_is_left_for_another_without_a_deadline_too(
    standin: StandIn,
):
    async with stand_in() as other:
        for path in ("/api/tags", "/api/ps"):
            says_json(other, path, {"models": [TAG]})
        other.says("/api/chat", says_lines(WORD, DONE))
        config = OllamaConfig(hosts=(standin.host, other.host), refresh=60)
        backend = OllamaBackend(config, QUICK)
        await backend.list_models()
        for path in ("/api/version", "/api/chat", "/api/show", "/api/ps"):
            standin.says(path, hangs)
        assert TextDelta("A") in await answer(backend)
        await backend.aclose()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.slow
async def test_breaker_opens_by_silence_and_closes_by_a_token(
    standin: StandIn, backend: OllamaBackend, n: int
):
    standin.says("/api/chat", hangs)
    standin.says("/api/generate", says_after(0.2, {"response": "1", "done": True}))
    for _ in range(3):
        assert backend.is_well("m")
        await silent(backend, patience=0.05, n=n)
    assert not backend.is_well("m")
    states: list[str | None] = []

    async def is_closed() -> bool:
        state = (await backend.health()).breaker
        states.extend([] if states[-1:] == [state] else [state])
        return state == "closed"

    await until(is_closed)
    assert states == ["open", "half-open", "closed"]
    assert backend.is_well("m")


@pytest.mark.slow
async def test_hanging_server_is_given_up_only_where_another_backend_can_embed(
    standin: StandIn,
):
    backend = OllamaBackend(OllamaConfig(host=standin.host, first_token_timeout=0.8), QUICK)
    await backend.list_models()
    for path in ("/api/version", "/api/embed", "/api/show", "/api/ps"):
        standin.says(path, hangs)
    asked = EmbeddingRequest(model="m", inputs=("a",), elsewhere=True)
    with pytest.raises(BackendTimeoutError, match="does not respond to /api/version"):
        await backend.embed(asked)
    with pytest.raises(BackendTimeoutError, match="in time"):
        await backend.embed(replace(asked, elsewhere=False))
    await backend.aclose()
