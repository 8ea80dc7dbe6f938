"""`num_ctx` on the wire: as large as the request needs, as small as reloads allow."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.clock import Clock
from fakes.recorded_ollama import Reply, StandIn, recording, replay, says_lines
from msgspec.structs import replace

from adapters import sink
from adapters.config import OllamaConfig
from adapters.errors import ContextLengthError, InsufficientMemoryError
from adapters.events import Event, Started
from adapters.ollama.backend import OllamaBackend
from adapters.request import GenerationRequest, Message, Sampling, TextPart
from adapters.upstream.limits import Limits

LAST = {"message": {"content": "A"}, "done": True, "done_reason": "stop", "prompt_eval_count": 9}


def chat(words: int = 1, **fields: Any) -> GenerationRequest:
    message = Message(role="user", content=(TextPart("word " * words),))
    return GenerationRequest(model="smollm2:135m", prompt=(message,), **fields)


async def events_of(backend: OllamaBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def sizes(standin: StandIn) -> list[int]:
    return [body["options"]["num_ctx"] for body in standin.bodies("/api/chat")]


@pytest.fixture
def ollama(standin: StandIn) -> StandIn:
    """The recorded server, with nothing loaded."""
    for name in ("tags", "version", "show-llama"):
        standin.replays(name)
    loads(standin, None)
    standin.says("/api/chat", says_lines(LAST))
    return standin


def loads(standin: StandIn, context: int | None, name: str = "smollm2:135m") -> None:
    models = [{"name": name, "context_length": context}] if context else []

    async def script(reply: Reply) -> None:
        await reply.plain(200, json.dumps({"models": models}).encode())

    standin.says("/api/ps", script)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def backend(ollama: StandIn, clock: Clock) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(OllamaConfig(host=ollama.host, refresh=0.001), Limits(clock=clock))
    yield backend
    await backend.aclose()


async def test_context_is_the_least_when_the_request_is_short(
    ollama: StandIn, backend: OllamaBackend
):
    assert (await events_of(backend, chat()))[0] == Started(4096, cold=True, prompt_tokens=26)
    assert sizes(ollama) == [4096]


async def test_context_grows_with_the_prompt_and_with_the_answer(
    ollama: StandIn, backend: OllamaBackend
):
    assert (await events_of(backend, chat(2000)))[0] == Started(8192, cold=True, prompt_tokens=3691)
    assert sizes(ollama) == [8192]


async def test_context_grows_with_max_tokens(ollama: StandIn, backend: OllamaBackend):
    await events_of(backend, chat(max_tokens=5000))
    assert sizes(ollama) == [8192]


async def test_context_is_not_taken_back_when_the_next_request_is_short(
    ollama: StandIn, backend: OllamaBackend, clock: Clock
):
    await events_of(backend, chat(max_tokens=5000))
    loads(ollama, 8192)
    clock.advance()
    await events_of(backend, chat())
    assert sizes(ollama) == [8192, 8192]


async def test_context_that_another_client_loaded_is_left_alone(
    ollama: StandIn, backend: OllamaBackend
):
    loads(ollama, 6000)
    await events_of(backend, chat())
    await events_of(backend, chat(max_tokens=3000))
    await events_of(backend, chat(max_tokens=7000))
    assert sizes(ollama) == [6000, 6000, 8192]


async def test_context_that_another_model_of_the_same_file_was_loaded_with_is_left_alone(
    ollama: StandIn, backend: OllamaBackend, clock: Clock
):
    """Otherwise Ollama would reload their runner each time the other model is used."""
    await backend.list_models()
    request = chat(max_tokens=5000)
    await events_of(backend, replace(request, model="smollm2-tools:latest"))
    loads(ollama, 8192, "smollm2-tools:latest")
    clock.advance()
    assert (await events_of(backend, chat()))[0] == Started(8192, prompt_tokens=26)
    loads(ollama, None)
    clock.advance()
    assert (await events_of(backend, chat()))[0] == Started(8192, cold=True, prompt_tokens=26)
    assert sizes(ollama) == [8192, 8192, 8192]


async def test_short_request_asks_for_no_less_than_the_long_one_in_progress(
    ollama: StandIn, backend: OllamaBackend
):
    async def hangs(reply: Reply) -> None:
        await reply.gone()

    ollama.says("/api/chat", hangs)
    long = asyncio.create_task(events_of(backend, chat(max_tokens=7000)))
    await ollama.has_seen("/api/chat")
    loads(ollama, 4096)
    short = asyncio.create_task(events_of(backend, chat()))
    await ollama.has_seen("/api/chat", 2)
    for task in (long, short):
        task.cancel()
    await asyncio.wait([long, short])
    assert sizes(ollama) == [8192, 8192]


@pytest.mark.parametrize("fields", [{"num_ctx": 1000}, {"options": {"num_ctx": 1000}}])
async def test_own_num_ctx_is_sent_as_it_is(
    ollama: StandIn, backend: OllamaBackend, fields: dict[str, Any]
):
    loads(ollama, 4096)
    assert (await events_of(backend, chat(**fields)))[0] == Started(1000, prompt_tokens=26)
    assert sizes(ollama) == [1000]


@pytest.mark.parametrize(("last", "sent"), [(-1, 4096), (0, 0), (64, 64)])
async def test_penalties_over_the_whole_context_are_sent_as_its_size(
    ollama: StandIn, backend: OllamaBackend, last: int, sent: int
):
    await events_of(backend, chat(sampling=Sampling(repeat_last_n=last)))
    (body,) = ollama.bodies("/api/chat")
    assert body["options"]["repeat_last_n"] == sent
    assert body["options"]["num_ctx"] == 4096


async def test_own_num_ctx_beyond_the_models_is_the_models(ollama: StandIn, backend: OllamaBackend):
    assert (await events_of(backend, chat(num_ctx=16_384)))[0] == Started(8192, prompt_tokens=26)
    assert sizes(ollama) == [8192]


def refuses_first(standin: StandIn, tokens: int) -> None:
    """The recorded refusal, of a prompt of `tokens`; then an answer."""
    refusal = recording("chat-overflow-truncate-false")["response"]
    texts = [chunk.replace("9925", str(tokens)) for chunk in refusal["chunks"]]
    refused = replay(refusal | {"chunks": texts})

    async def script(reply: Reply) -> None:
        standin.says("/api/chat", says_lines(LAST))
        await refused(reply)

    standin.says("/api/chat", script)


async def test_refused_prompt_is_sent_again_with_room_for_its_exact_count(
    ollama: StandIn, backend: OllamaBackend
):
    refuses_first(ollama, 5000)
    assert (await events_of(backend, chat()))[0] == Started(8192, cold=True, prompt_tokens=26)
    assert sizes(ollama) == [4096, 8192]


async def test_refused_prompt_that_cannot_fit_is_refused_with_both_numbers(
    ollama: StandIn, backend: OllamaBackend
):
    refuses_first(ollama, 9925)
    with pytest.raises(
        ContextLengthError,
        match=r"The context of 'smollm2:135m' holds 8192 tokens; the prompt alone has 9925\.",
    ):
        await events_of(backend, chat())
    assert sizes(ollama) == [4096]


async def test_refused_prompt_is_not_sent_again_when_the_request_says_how_long(
    ollama: StandIn, backend: OllamaBackend
):
    refuses_first(ollama, 5000)
    with pytest.raises(ContextLengthError, match="holds 1000 tokens; the prompt alone has 5000"):
        await events_of(backend, chat(num_ctx=1000))
    assert sizes(ollama) == [1000]


async def test_max_context_limits(ollama: StandIn):
    backend = OllamaBackend(OllamaConfig(host=ollama.host, max_context=5000))
    await events_of(backend, chat(max_tokens=7000))
    assert sizes(ollama) == [5000]
    await backend.aclose()


async def test_memory_limits(ollama: StandIn):
    # smollm2:135m: 98,362,745 bytes, and 23,040 for each token.
    budget = 98_362_745 + 23_040 * 4500
    backend = OllamaBackend(OllamaConfig(host=ollama.host, memory_bytes=budget))
    await backend.list_models()
    await events_of(backend, chat(max_tokens=7000))
    assert sizes(ollama) == [4500]
    await backend.aclose()


async def test_model_larger_than_the_memory_is_refused(ollama: StandIn):
    backend = OllamaBackend(OllamaConfig(host=ollama.host, memory_bytes=90_000_000))
    await backend.list_models()
    with pytest.raises(InsufficientMemoryError, match=r"98454905.*90000000"):
        await events_of(backend, chat())
    assert sizes(ollama) == []
    await backend.aclose()


@pytest.fixture
async def sighted(ollama: StandIn) -> AsyncIterator[OllamaBackend]:
    """Whatever its settings and its memory: Ollama gives a model that sees 2048 tokens."""
    ollama.replays("show-vision")
    config = OllamaConfig(host=ollama.host, refresh=0.001, min_context=512, max_context=1500)
    backend = OllamaBackend(config)
    yield backend
    await backend.aclose()


@pytest.mark.parametrize("fields", [{}, {"num_ctx": 512}, {"options": {"num_ctx": 512}}])
async def test_model_that_sees_is_given_what_ollama_gives_it_at_least(
    ollama: StandIn, sighted: OllamaBackend, fields: dict[str, Any]
):
    loads(ollama, 2048)
    request = chat(**{"max_tokens": 9} | fields)
    assert (await events_of(sighted, request))[0] == Started(2048, prompt_tokens=26)
    assert sizes(ollama) == [2048]


async def test_model_that_sees_is_loaded_with_what_ollama_gives_it_at_least(
    ollama: StandIn, sighted: OllamaBackend
):
    await sighted.load("smollm2:135m")
    assert sizes(ollama) == [2048]


async def test_model_that_sees_is_refused_where_the_memory_holds_no_such_context(
    ollama: StandIn,
):
    ollama.replays("show-vision")
    budget = 98_362_745 + 23_040 * 1500
    backend = OllamaBackend(OllamaConfig(host=ollama.host, memory_bytes=budget))
    await backend.list_models()
    with pytest.raises(InsufficientMemoryError, match=rf"{98_362_745 + 23_040 * 2048}.*{budget}"):
        await events_of(backend, chat(num_ctx=512))
    assert sizes(ollama) == []
    await backend.aclose()


async def test_num_ctx_below_ollamas_least_is_raised_as_ollama_raises_it(
    ollama: StandIn, backend: OllamaBackend
):
    ollama.replays("show-missing", "/api/show")  # Nothing is known of its tokens.
    request = GenerationRequest(model="smollm2:135m", prompt="a", num_ctx=3)
    ollama.says("/api/generate", says_lines({"response": "A", "done": True}))
    assert (await events_of(backend, request))[0] == Started(4, prompt_tokens=13)


async def test_model_is_shown_once(ollama: StandIn, backend: OllamaBackend):
    for _ in range(3):
        await events_of(backend, chat())
    assert len(ollama.bodies("/api/show")) == 1


# --- keep_alive --------------------------------------------------------------------------------


def kept(standin: StandIn) -> list[Any]:
    return [body.get("keep_alive") for body in standin.bodies("/api/chat")]


async def test_keep_alive_is_not_sent_by_default(ollama: StandIn, backend: OllamaBackend):
    await events_of(backend, chat())
    assert kept(ollama) == [None]


async def test_keep_alive_of_request_goes_before_that_of_model_before_that_of_backend(
    ollama: StandIn,
):
    config = OllamaConfig(host=ollama.host, keep_alive=60, keep_alive_of={"smollm2:135m": -1})
    backend = OllamaBackend(config)
    await events_of(backend, chat(keep_alive=5))
    await events_of(backend, chat())
    await events_of(backend, replace(chat(), model="other"))
    await backend.load("smollm2:135m")
    await backend.load("smollm2:135m", 7)
    assert kept(ollama) == [5, -1, 60, -1, 7]
    await backend.aclose()


async def test_load_takes_the_context_that_a_short_request_will_ask_for(
    ollama: StandIn, backend: OllamaBackend
):
    await backend.load("smollm2:135m")
    loads(ollama, 4096)
    await events_of(backend, chat())
    assert sizes(ollama) == [4096, 4096]
    # A runner that was loaded with another `shift` is loaded anew.
    assert [body["shift"] for body in ollama.bodies("/api/chat")] == [False, False]


@pytest.mark.parametrize(
    ("loaded", "cold"), [(None, True), (2048, True), (4096, False), (8192, False)]
)
async def test_answer_is_cold_when_ollama_has_to_load_for_it(
    ollama: StandIn, backend: OllamaBackend, loaded: int | None, cold: bool
):
    loads(ollama, loaded)
    first, *_ = await events_of(backend, chat(max_tokens=3000))
    assert isinstance(first, Started)
    assert first.cold is cold


async def test_answer_after_a_cold_one_is_not(ollama: StandIn):
    backend = OllamaBackend(OllamaConfig(host=ollama.host, refresh=60))
    answers = [await events_of(backend, chat()) for _ in range(2)]
    await backend.aclose()
    assert [started.cold for started, *_ in answers if isinstance(started, Started)] == [
        True,
        False,
    ]
