"""The contract suite: the guarantees of `adapters/backend.py`, tested on every backend."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from adapters import open_backend, sink
from adapters.backend import Backend, TokenCounter
from adapters.config import BackendConfig, EchoConfig, MLXConfig, OllamaConfig
from adapters.errors import BadUpstreamError, ModelNotFoundError, UnsupportedParameterError
from adapters.events import (
    Event,
    Finished,
    Restarted,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.request import GenerationRequest, JSONSchema, Message, Sampling, TextPart, Tool

COUNT = "Count from one to ten in words, separated by commas."


class Subject(Struct):
    backend: Backend
    model: str

    def request(self, text: str = COUNT, **fields: Any) -> GenerationRequest:
        sampling = (
            Sampling(temperature=0.0) if "temperature" in self.backend.honours else Sampling()
        )
        messages = (Message(role="user", content=(TextPart(text),)),)
        return GenerationRequest(
            model=self.model, prompt=messages, **{"sampling": sampling, "max_tokens": 8, **fields}
        )

    async def events(self, **fields: Any) -> list[Event]:
        return [event async for event in sink.events(self.backend, self.request(**fields))]

    async def active(self) -> int:
        return (await self.backend.health()).counters["active"]


@pytest.fixture(
    params=[
        "echo",
        "mlx",
        pytest.param("mlx-process", marks=pytest.mark.long),
        pytest.param("ollama", marks=[pytest.mark.ollama, pytest.mark.long]),
    ],
)
async def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Subject]:
    config, model = _configuration(request, tmp_path_factory)
    async with open_backend(config) as backend:
        yield Subject(backend, model)


def _configuration(
    request: pytest.FixtureRequest, folders: pytest.TempPathFactory
) -> tuple[BackendConfig, str]:
    if request.param == "echo":
        return EchoConfig(delay=0.001), "echo"
    if request.param == "ollama":
        return OllamaConfig(host=request.getfixturevalue("ollama_host")), "smollm2:135m"
    engine = "process" if request.param == "mlx-process" else "thread"
    root = str(_tiny_models(folders))
    return MLXConfig(engine=engine, folders=(root,), huggingface_cache=False), "tiny"


def _tiny_models(folders: pytest.TempPathFactory) -> Path:
    from fakes.tiny_model import write_tiny_model

    root = folders.mktemp("contract")
    write_tiny_model(root / "tiny")
    return root


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_events_come_in_order(subject: Subject) -> None:
    events = await subject.events()
    assert isinstance(events[0], Started)
    assert [type(event) for event in events].count(Started) == 1
    assert [isinstance(event, Finished) for event in events] == [False] * (len(events) - 1) + [True]


async def test_each_choice_finishes_once_and_says_nothing_after_it(subject: Subject) -> None:
    events = await subject.events(n=3)
    assert isinstance(events[0], Started)
    by_choice: dict[int, list[Event]] = {}
    for event in events[1:]:
        assert not isinstance(event, (Started, Restarted))
        by_choice.setdefault(event.choice, []).append(event)
    assert sorted(by_choice) == [0, 1, 2]
    for own in by_choice.values():
        assert [type(event) for event in own].count(Finished) == 1
        assert isinstance(own[-1], Finished)


async def test_max_tokens_ends_the_answer_at_exactly_that_many(subject: Subject) -> None:
    finished = (await subject.events(max_tokens=5))[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    assert finished.usage.completion_tokens == 5
    assert finished.usage.prompt_tokens > 0


async def test_the_same_request_gets_the_same_answer(subject: Subject) -> None:
    assert text_of(await subject.events()) == text_of(await subject.events())


async def test_a_stop_string_is_never_shown(subject: Subject) -> None:
    full = text_of(await subject.events(max_tokens=12))
    word = full[len(full) // 2 :][:3]
    events = await subject.events(max_tokens=12, stop=(word,))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    assert text_of(events) == full[: full.index(word)]


async def test_the_stop_string_that_ended_an_answer_is_named_on_request(subject: Subject) -> None:
    full = text_of(await subject.events(max_tokens=12))
    word = full[len(full) // 2 :][:3]
    stop = ("\x00", word)
    *events, finished = await subject.events(max_tokens=12, stop=stop, names_stop=True)
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.stop_sequence) == ("stop", word)
    assert text_of(events) == full[: full.index(word)]


async def test_no_stop_string_is_named_where_none_ended_the_answer(subject: Subject) -> None:
    full = text_of(await subject.events(max_tokens=12))
    stop = ("\x00", full[-1] + "\x00")  # The end of the text could have become one.
    *events, finished = await subject.events(max_tokens=12, stop=stop, names_stop=True)
    assert isinstance(finished, Finished)
    assert finished.stop_sequence is None
    assert text_of(events) == full


async def test_answers_at_once_do_not_mix(subject: Subject) -> None:
    texts = [f"Say the number {number}." for number in range(4)]
    alone = [text_of(await subject.events(text=text)) for text in texts]
    together = await asyncio.gather(*(subject.events(text=text) for text in texts))
    if subject.backend.kind == "ollama":
        # llama.cpp's batched greedy text may differ in a near tie: only that all ended is promised.
        assert all(isinstance(events[-1], Finished) for events in together)
    else:
        assert [text_of(events) for events in together] == alone


class Listening:
    """A sink that can be waited on, and that may fail."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.events: list[Event] = []
        self.spoken = asyncio.Event()
        """Set with the first delta."""
        self._fails_at = fails_at

    def write(self, event: Event, /) -> bool:
        if len(self.events) == self._fails_at:
            raise BadUpstreamError("no more of this")
        self.events.append(event)
        if isinstance(event, TextDelta):
            self.spoken.set()
        return False

    async def drain(self) -> None:
        """Return at once."""


async def test_cancelling_the_task_stops_the_work(subject: Subject) -> None:
    listening = Listening()
    request = subject.request(max_tokens=400)
    task = asyncio.create_task(subject.backend.generate(request, listening))
    await listening.spoken.wait()
    assert await subject.active() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    written = len(listening.events)
    assert not any(isinstance(event, Finished) for event in listening.events)
    assert await subject.active() == 0
    assert (await subject.backend.health()).counters["cancelled"] == 1
    assert text_of(await subject.events())
    assert len(listening.events) == written


async def test_cancelling_before_the_first_event_stops_the_work(subject: Subject) -> None:
    await subject.events()
    task = asyncio.create_task(
        subject.backend.generate(subject.request(), listening := Listening())
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await subject.active() == 0
    assert not any(isinstance(event, Finished) for event in listening.events)


async def test_closing_the_iterator_stops_the_work(subject: Subject) -> None:
    stream = sink.events(subject.backend, subject.request(max_tokens=400))
    assert isinstance(await anext(stream), Started)
    assert isinstance(await anext(stream), TextDelta)
    await stream.aclose()
    assert await subject.active() == 0
    assert text_of(await subject.events())


async def test_an_error_of_the_sink_stops_the_work_and_is_raised(subject: Subject) -> None:
    failing = Listening(fails_at=2)
    request = subject.request(max_tokens=400)
    with pytest.raises(BadUpstreamError, match="no more of this"):
        await subject.backend.generate(request, failing)
    assert len(failing.events) == 2
    assert await subject.active() == 0
    assert text_of(await subject.events())


async def test_a_model_it_does_not_have_is_not_found(subject: Subject) -> None:
    subject.model = "no-such-model"
    with pytest.raises(ModelNotFoundError):
        await subject.events()
    with pytest.raises(ModelNotFoundError):
        await subject.backend.load("no-such-model")


async def test_a_feature_it_does_not_honour_is_refused_by_name(subject: Subject) -> None:
    fields: dict[str, dict[str, Any]] = {
        "logit_bias": {"sampling": Sampling(logit_bias={1: 1.0})},
        "options": {"options": {"mirostat": 1}},
        "tool_choice": {"tools": (Tool("f"),), "tool_choice": "required"},
    }
    refused = {name: wish for name, wish in fields.items() if name not in subject.backend.honours}
    assert refused
    for name, wish in refused.items():
        with pytest.raises(UnsupportedParameterError) as caught:
            await subject.events(**wish)
        assert caught.value.param == name


CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.slow
async def test_a_forced_call_is_made_where_it_is_honoured(subject: Subject) -> None:
    if "tool_choice" not in subject.backend.honours:
        pytest.skip(f"{subject.backend.kind} does not claim it")
    tools = (Tool("weather", "Tells the weather.", CITY),)
    events = await subject.events(tools=tools, tool_choice="required", max_tokens=200)
    [started] = [event for event in events if isinstance(event, ToolCallStarted)]
    assert (started.index, started.name) == (0, "weather")
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(arguments)["city"] in ("Paris", "Rome")
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "tool_calls"
    assert text_of(events) == ""


async def test_a_schema_is_kept_where_it_is_honoured(subject: Subject) -> None:
    if "response_format" not in subject.backend.honours:
        pytest.skip(f"{subject.backend.kind} does not claim it")
    events = await subject.events(response_format=JSONSchema(CITY, strict=True), max_tokens=200)
    assert json.loads(text_of(events))["city"] in ("Paris", "Rome")
    cut = await subject.events(response_format=JSONSchema(CITY, strict=True), max_tokens=3)
    assert isinstance(cut[-1], Finished)
    assert cut[-1].reason == "length"


async def test_its_models_are_listed_with_what_is_known(subject: Subject) -> None:
    models = {model.name: model for model in await subject.backend.list_models()}
    assert "chat" in models[subject.model].capabilities


async def test_loading_and_unloading_can_be_repeated(subject: Subject) -> None:
    for action in (subject.backend.load, subject.backend.unload):
        await action(subject.model)
        await action(subject.model)
    assert text_of(await subject.events())


async def test_health_counts_what_was_done(subject: Subject) -> None:
    await subject.events()
    health = await subject.backend.health()
    assert health.ok
    assert health.counters["finished"] == 1
    assert health.counters["active"] == health.counters["cancelled"] == 0


async def test_tokens_of_a_prompt_are_counted_as_an_answer_counts_them(subject: Subject) -> None:
    assert isinstance(subject.backend, TokenCounter)
    counted = await subject.backend.count_tokens(subject.request())
    [*_, finished] = await subject.events()
    assert isinstance(finished, Finished)
    if counted.exact:
        assert counted.tokens == finished.usage.prompt_tokens
    else:
        assert counted.tokens >= finished.usage.prompt_tokens
