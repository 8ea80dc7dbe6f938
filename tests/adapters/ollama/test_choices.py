"""Several answers to one request: seeds, order, failures, and that nothing is left behind."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, StandIn, says_lines
from fakes.waiting import pause

from adapters import sink
from adapters.config import OllamaConfig
from adapters.errors import BackendTimeoutError, BadUpstreamError, ModelNotFoundError
from adapters.events import Event, Finished, Started, TextDelta
from adapters.ollama.backend import OllamaBackend
from adapters.request import GenerationRequest, Message, Sampling, TextPart

QUESTION = Message(role="user", content=(TextPart("Hi"),))
LAST = {"message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 1}


def word(text: str) -> dict[str, Any]:
    return {"message": {"content": text}, "done": False}


def three(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**({"model": "m", "prompt": (QUESTION,), "n": 3} | fields))


async def events_of(backend: OllamaBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def says_its_seed(standin: StandIn) -> None:
    async def script(reply: Reply) -> None:
        seed = standin.bodies("/api/chat")[-1]["options"].get("seed")
        await says_lines(word(f"seed {seed}"), LAST)(reply)

    standin.says("/api/chat", script)


async def test_each_choice_has_a_seed_of_its_own(standin: StandIn, backend: OllamaBackend):
    says_its_seed(standin)
    events = await events_of(backend, three(sampling=Sampling(seed=7)))
    said = {event.choice: event.text for event in events if isinstance(event, TextDelta)}
    assert said == {0: "seed 7", 1: "seed 8", 2: "seed 9"}


async def test_no_seed_is_made_up(standin: StandIn, backend: OllamaBackend):
    says_its_seed(standin)
    await events_of(backend, three())
    assert ["seed" in body["options"] for body in standin.bodies("/api/chat")] == [False] * 3


async def test_choices_start_once_and_each_of_them_ends(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", says_lines(word("A"), LAST))
    events = await events_of(backend, three())
    assert [isinstance(event, Started) for event in events] == [True] + [False] * 6
    ends = [event for event in events if isinstance(event, Finished)]
    assert sorted(event.choice for event in ends) == [0, 1, 2]
    assert isinstance(events[-1], Finished)


async def test_choices_run_side_by_side(standin: StandIn, backend: OllamaBackend):
    async def script(reply: Reply) -> None:
        await standin.has_seen("/api/chat", 3)
        await says_lines(word("A"), LAST)(reply)

    standin.says("/api/chat", script)
    assert len(await events_of(backend, three())) == 7


async def test_failure_of_one_ends_all_and_closes_their_sockets(
    standin: StandIn, backend: OllamaBackend
):
    async def script(reply: Reply) -> None:
        if len(standin.bodies("/api/chat")) == 3:
            await says_lines(word("A"), {"error": "it broke"})(reply)
        await reply.head()
        await reply.gone()

    standin.says("/api/chat", script)
    with pytest.raises(BadUpstreamError, match="Ollama failed"):
        await events_of(backend, three())
    await standin.closed()


async def test_refusal_comes_before_started(standin: StandIn, backend: OllamaBackend):
    async def script(reply: Reply) -> None:
        await reply.plain(404, b'{"error": "model \\"m\\" not found"}')

    standin.says("/api/chat", script)
    with pytest.raises(ModelNotFoundError):
        await anext(sink.events(backend, three()))


async def test_closing_the_iterator_closes_the_sockets_of_all_choices(
    standin: StandIn, backend: OllamaBackend
):
    left = asyncio.Semaphore(0)

    async def script(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"message": {"content": "A"}, "done": false}\n')
        await reply.gone()
        left.release()

    standin.says("/api/chat", script)
    events = sink.events(backend, three())
    for _ in range(4):  # `Started`, and a word of each.
        await anext(events)
    await events.aclose()
    for _ in range(3):
        await left.acquire()


@pytest.mark.slow
async def test_choice_may_wait_while_another_is_written(standin: StandIn):
    """Ollama takes one after the other; the last may wait longer than the first line may take."""
    turn = asyncio.Lock()

    async def script(reply: Reply) -> None:
        async with turn:
            await reply.head()
            for _ in range(3):
                await reply.chunk(b'{"message": {"content": "A"}, "done": false}\n')
                await pause(0.2)
            await reply.chunk(b'{"message": {"content": ""}, "done": true}\n')
            await reply.end()

    standin.says("/api/chat", script)
    config = OllamaConfig(host=standin.host, first_token_timeout=1.0, token_timeout=5.0)
    async with aclosing(OllamaBackend(config)) as backend:
        events = await events_of(backend, three())
    assert sum(isinstance(event, Finished) for event in events) == 3


async def test_silence_of_all_runs_into_the_limit(standin: StandIn):
    async def script(reply: Reply) -> None:
        await reply.head()
        await reply.gone()

    standin.says("/api/chat", script)
    backend = OllamaBackend(OllamaConfig(host=standin.host, first_token_timeout=0.2))
    with pytest.raises(BackendTimeoutError):
        await events_of(backend, three())
    await backend.aclose()
    await standin.closed()
