"""Long prompts on a real Ollama: what its own /v1 loses, Tandem keeps or refuses."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest
from fakes.waiting import until
from msgspec.structs import replace
from servers.ollama_server import PLAIN, SEES, TOOLS, own_ollama, require_model

from adapters import sink
from adapters.config import OllamaConfig
from adapters.errors import BackendError, ContextLengthError
from adapters.events import Event, Finished, Started
from adapters.ollama.backend import OllamaBackend
from adapters.ollama.context.token_estimate import TokenCounter, texts_of
from adapters.ollama.model_info import open_vocabulary, to_model_info
from adapters.ollama.wire import Options, RawBody, Show
from adapters.request import GenerationRequest, Message, Sampling, TextPart

pytestmark = [pytest.mark.ollama, pytest.mark.long]

FACT = "The word of the day is zebra. "
FILLER = "The river ran past the old mill and the road went on over the hills. "
LONG = FACT + FILLER * 375  # 6,000 tokens


def chat(text: str, max_tokens: int = 4) -> GenerationRequest:
    return GenerationRequest(
        model=PLAIN,
        prompt=(Message(role="user", content=(TextPart(text),)),),
        sampling=Sampling(temperature=0),
        max_tokens=max_tokens,
    )


def ask(host: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{host}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def loaded(host: str, model: str = PLAIN) -> int | None:
    """The context that it has; `None` where it is not loaded by this name. Others may be."""
    models = ask(host, "/api/ps")["models"]
    return next((each["context_length"] for each in models if each["name"] == model), None)


@pytest.fixture
async def backend(ollama_host: str) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(OllamaConfig(host=ollama_host))
    await backend.list_models()
    await backend.unload(PLAIN)
    yield backend
    await backend.aclose()


async def events_of(backend: OllamaBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def context_of(first: Event) -> int | None:
    """Drop `cold`, which depends on the requests before."""
    assert isinstance(first, Started)
    return first.context


def end_of(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_long_prompt_loses_its_beginning_through_ollamas_own_v1_and_nothing_here(
    backend: OllamaBackend, ollama_host: str
):
    body = {
        "model": PLAIN,
        "messages": [{"role": "user", "content": LONG}],
        "max_tokens": 4,
        "temperature": 0,
    }
    theirs = ask(ollama_host, "/v1/chat/completions", body)["usage"]["prompt_tokens"]
    assert theirs < 4096
    events = await events_of(backend, chat(LONG))
    assert context_of(events[0]) == 8192
    assert end_of(events).usage.prompt_tokens > 6000
    assert loaded(ollama_host) == 8192


async def test_short_request_after_a_long_one_loads_nothing_anew(
    backend: OllamaBackend, ollama_host: str
):
    long = sink.events(backend, chat("Hi", max_tokens=5000))
    assert context_of(await anext(long)) == 8192
    await long.aclose()
    assert context_of((await events_of(backend, chat("Hello")))[0]) == 8192
    # Ollama's own word: a load takes a tenth of a second at least.
    body = {
        "model": PLAIN,
        "prompt": "1",
        "stream": False,
        "shift": False,
        "options": {"num_ctx": 8192, "num_predict": 1},
    }
    assert ask(ollama_host, "/api/generate", body)["load_duration"] < 100_000_000
    assert loaded(ollama_host) == 8192


async def test_model_of_the_same_file_needs_no_load(backend: OllamaBackend, ollama_host: str):
    long = sink.events(backend, replace(chat("Hi", max_tokens=5000), model=TOOLS))
    assert context_of(await anext(long)) == 8192
    await long.aclose()
    assert (await events_of(backend, chat("Hello")))[0] == Started(8192)
    assert loaded(ollama_host, TOOLS) == 8192
    assert loaded(ollama_host, PLAIN) is None


async def test_load_fits_the_request_that_follows(backend: OllamaBackend, ollama_host: str):
    await backend.load(PLAIN, 60)
    assert loaded(ollama_host) == 4096
    body = {
        "model": PLAIN,
        "prompt": "1",
        "stream": False,
        "shift": False,
        "options": {"num_ctx": 4096, "num_predict": 1},
    }
    assert ask(ollama_host, "/api/generate", body)["load_duration"] < 100_000_000


@pytest.mark.parametrize("model", [SEES, PLAIN])
async def test_reported_context_is_the_one_that_ollama_gives(
    backend: OllamaBackend, ollama_host: str, model: str
):
    require_model(ollama_host, model)
    for num_ctx in (3072, 512):
        request = replace(chat("Hi"), model=model, num_ctx=num_ctx)
        told = context_of((await events_of(backend, request))[0])
        assert told == loaded(ollama_host, model)
    await backend.unload(model)


async def test_prompt_that_the_model_cannot_hold_is_refused_with_the_exact_count(
    backend: OllamaBackend,
):
    text = "zebra " * 8190
    request = GenerationRequest(model=PLAIN, prompt=text, max_tokens=1)
    with pytest.raises(ContextLengthError) as caught:
        await events_of(backend, request)
    count = int(caught.value.message.rstrip(".").rpartition(" ")[2])
    assert "holds 8192 tokens" in caught.value.message
    assert count >= 8192  # No room for a single token of the answer.


async def test_raw_prompt_is_counted_as_ollama_counts(backend: OllamaBackend, ollama_host: str):
    """So that what is refused before it is sent would have been refused by Ollama, too."""
    shown = ask(ollama_host, "/api/show", {"model": PLAIN})
    facts = to_model_info(msgspec.convert(shown, Show), None)
    counter = TokenCounter(await open_vocabulary(facts))
    for text in (
        "The capital of France is",
        "naïve 日本語 😀 x=1;\n\n\tdef f():",
        "<|im_start|>user\n",
    ):
        count = await counter.count(texts_of(RawBody(model=PLAIN, options=Options(), prompt=text)))
        request = GenerationRequest(model=PLAIN, prompt=text, max_tokens=1)
        assert count.exact
        assert end_of(await events_of(backend, request)).usage.prompt_tokens == count.tokens


async def test_keep_alive_of_zero_unloads(backend: OllamaBackend, ollama_host: str):
    await events_of(backend, replace(chat("Hi"), keep_alive=0))
    await until(lambda: loaded(ollama_host) is None)


@pytest.mark.long
async def test_other_ollama_answers_when_one_is_killed_under_load():
    with own_ollama() as one, own_ollama() as two:
        backend = OllamaBackend(OllamaConfig(hosts=(one.host, two.host)))
        await backend.list_models()
        streams = [sink.events(backend, chat("Tell me a story.", 400)) for _ in range(2)]
        for stream in streams:
            assert isinstance(await anext(stream), Started)
        one.kill()
        ends = await asyncio.gather(*(_ends_well(stream) for stream in streams))
        assert sorted(ends) == [False, True]
        for _ in range(4):
            assert end_of(await events_of(backend, chat("Hi"))).usage.completion_tokens > 0
        assert (await backend.health()).ok
        one.start()

        async def are_well() -> bool:
            return (await backend.health()).counters["hosts_well"] == 2

        await until(are_well)
        assert end_of(await events_of(backend, chat("Hi"))).reason in ("stop", "length")
        await backend.aclose()


async def _ends_well(stream: AsyncGenerator[Event]) -> bool:
    try:
        return isinstance([event async for event in stream][-1], Finished)
    except BackendError:
        return False
