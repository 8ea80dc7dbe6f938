"""A real Ollama answers as the recordings do."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import jsonschema
import pytest
from fakes.waiting import pause, until
from servers.ollama_server import PLAIN, THINK, TOOLS, OllamaProcess, require_model

from adapters import sink
from adapters.config import OllamaConfig
from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    BadUpstreamError,
    ContextLengthError,
    GenerationError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.ollama.backend import OllamaBackend
from adapters.request import (
    GenerationRequest,
    ImagePart,
    JSONSchema,
    Message,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)

pytestmark = [pytest.mark.ollama, pytest.mark.long]

GREEDY = Sampling(temperature=0)
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYPhf"
    "DwAChAI9GrY5WQAAAABJRU5ErkJggg=="
)


def user(text: str) -> Message:
    return Message(role="user", content=(TextPart(text),))


def chat(text: str = "What is the capital of France?", **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        **({"model": PLAIN, "prompt": (user(text),), "sampling": GREEDY} | fields)
    )


LONG = chat("Tell me a very long story.", max_tokens=2000)
READING = chat("zebra " * 3500, max_tokens=500)
NOTED = 'POST     "/api/chat"'


async def events_of(backend: OllamaBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def end_of(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


@pytest.fixture
async def backend(ollama_host: str) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(OllamaConfig(host=ollama_host))
    yield backend
    await backend.aclose()


async def test_capital_of_france(backend: OllamaBackend):
    events = await events_of(backend, chat(max_tokens=24))
    assert isinstance(events[0], Started)
    assert events[0].context == 4096
    assert text_of(events) == "The capital of France is Paris."
    end = end_of(events)
    assert (end.reason, end.usage.prompt_tokens, end.usage.completion_tokens) == ("stop", 16, 8)


async def test_raw_text_is_continued(backend: OllamaBackend):
    request = chat(prompt="The capital of France is", max_tokens=3)
    events = await events_of(backend, request)
    assert text_of(events).startswith(" Paris")
    assert end_of(events).usage.prompt_tokens == 5


async def test_max_tokens_ends_with_length(backend: OllamaBackend):
    end = end_of(await events_of(backend, chat(max_tokens=3)))
    assert (end.reason, end.usage.completion_tokens) == ("length", 3)


async def test_answer_that_repeats_itself_ends_with_length(backend: OllamaBackend):
    schema = JSONSchema({"const": "\N{EURO SIGN}" * 100})
    events = await events_of(backend, chat(max_tokens=500, response_format=schema))
    assert set(text_of(events)[1:]) == {"\N{EURO SIGN}"}
    end = end_of(events)
    assert (end.reason, end.usage.completion_tokens) == ("length", len(events) - 2)


async def test_control_token_in_a_message_is_text(backend: OllamaBackend):
    async def count(text: str) -> int:
        return end_of(await events_of(backend, chat(text, max_tokens=1))).usage.prompt_tokens

    assert await count("Hi<|im_end|>") > await count("Hi") + 2  # As a control token it is one.


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "null", '{"a": 1e999}'])
async def test_history_with_broken_arguments_is_answered(backend: OllamaBackend, arguments: str):
    called = Message(role="assistant", tool_calls=(ToolCall("c", "f", arguments),))
    result = Message(role="tool", tool_call_id="c", content=(TextPart("failed"),))
    lost = Message(role="tool", tool_call_id="lost", content=(TextPart("12:00"),))
    history = (user("Hi"), called, result, lost, user("Go on."))
    assert end_of(await events_of(backend, chat(prompt=history, max_tokens=2)))


@pytest.mark.parametrize("model", [PLAIN, TOOLS])
async def test_forced_call_of_a_tool_without_parameters(backend: OllamaBackend, model: str):
    tool = Tool("clock", "The time in the city given.")
    events = await events_of(
        backend, chat("Time in Paris?", model=model, tools=(tool,), tool_choice="required")
    )
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert json.loads(arguments) == {}


ODD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "zip": {"type": "string", "pattern": "^\\d{3}-\\d{2}$"},
        "quoted": {"type": "string", "pattern": "^[^a]{3}$"},
        "any": True,
        "told": {"description": "Anything."},
        "count": {"type": "integer", "minimum": "2", "maximum": 4.5},
        "tree": {"$ref": "#/definitions/a~1b"},
        "list": {"type": "array", "items": True, "maxItems": 1, "uniqueItems": True},
        "choice": {"anyOf": [False, {"const": 1}], "neverHeardOf": 5},
    },
    "required": ["zip", "quoted", "count", "choice"],
    "definitions": {"a/b": {"type": ["null", "boolean"]}},
}
"""Each property was a 400, or broke the JSON."""


async def test_odd_schema_is_enforced(backend: OllamaBackend):
    wanted = JSONSchema(ODD)
    events = await events_of(backend, chat(max_tokens=400, response_format=wanted))
    answer = json.loads(text_of(events))
    assert re.fullmatch(r"\d{3}-\d{2}", answer["zip"])
    assert re.fullmatch("[^a]{3}", answer["quoted"])
    assert 2 <= answer["count"] <= 4
    assert answer["choice"] == 1
    assert isinstance(events[0], Started)
    assert [path.rpartition(".")[2] for path in events[0].ignored] == [
        "uniqueItems",
        "neverHeardOf",
    ]


async def test_tools_of_odd_schemas_are_shown(backend: OllamaBackend, ollama_host: str):
    model = require_model(ollama_host, TOOLS)
    parameters: dict[str, Any] = {
        "type": ["object", "null"],
        "properties": {"a": True, "b": {"required": True, "description": 5, "type": 3}},
        "required": "a",
    }
    tools = (Tool("f", None, parameters), Tool("g", None, {"properties": []}))
    assert end_of(await events_of(backend, chat(model=model, tools=tools, max_tokens=2)))


@pytest.mark.parametrize("model", [PLAIN, TOOLS])
async def test_tools_with_a_format_give_a_call_or_the_format(backend: OllamaBackend, model: str):
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = Tool("get_weather", "The weather in a city.", city)
    wanted = JSONSchema({"type": "object", "properties": {"x": {"const": 7}}, "required": ["x"]})
    request = chat(
        "Weather in Paris?", model=model, tools=(tool,), response_format=wanted, max_tokens=200
    )
    events = await events_of(backend, request)
    if end_of(events).reason == "tool_calls":
        arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
        assert isinstance(json.loads(arguments)["city"], str)
    else:
        assert json.loads(text_of(events)) == {"x": 7}


async def test_bound_of_a_number_in_a_strict_schema_holds_or_is_an_error(backend: OllamaBackend):
    schema = {
        "type": "object",
        "properties": {"x": {"type": "number", "minimum": 3.5}},
        "required": ["x"],
        "additionalProperties": False,
    }
    request = chat(
        "Give me a number.",
        response_format=JSONSchema(schema, strict=True),
        sampling=Sampling(temperature=1, seed=1),
        max_tokens=60,
    )
    try:
        events = await events_of(backend, request)
    except GenerationError as error:
        assert error.lasting  # noqa: PT017 - both ends are right.
    else:
        assert end_of(events).reason == "length" or json.loads(text_of(events))["x"] >= 3.5


@pytest.mark.parametrize("stop", ["Paris", "of Fr", "ital"])
async def test_stop_string_does_not_leak(backend: OllamaBackend, stop: str):
    events = await events_of(backend, chat(max_tokens=24, stop=(stop,)))
    whole = "The capital of France is Paris."
    assert text_of(events) == whole[: whole.index(stop)]
    assert end_of(events).reason == "stop"


async def test_seed_repeats_and_changes_the_answer(backend: OllamaBackend):
    async def story(seed: int) -> str:
        sampling = Sampling(temperature=1.5, seed=seed)
        return text_of(await events_of(backend, chat("A story.", sampling=sampling, max_tokens=16)))

    first = await story(1)
    assert await story(1) == first
    assert await story(2) != first


async def test_logprobs_are_those_of_the_text(backend: OllamaBackend):
    events = await events_of(backend, chat(max_tokens=8, top_logprobs=2))
    tokens = [t for e in events if isinstance(e, TextDelta) for t in e.logprobs or ()]
    assert b"".join(bytes(t.bytes or ()) for t in tokens).decode() == text_of(events)
    assert all(len(token.top) == 2 and token.logprob <= 0 for token in tokens)


async def test_schema_is_kept(backend: OllamaBackend):
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string"}, "population": {"type": "integer"}},
        "required": ["capital", "population"],
    }
    request = chat(max_tokens=80, response_format=JSONSchema(schema))
    jsonschema.validate(json.loads(text_of(await events_of(backend, request))), schema)


WEATHER = Tool(
    "get_weather",
    "Get the weather of a city",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def asked_before(city: str) -> Iterator[Message]:
    """A question and the call that answers it: a small model needs to be shown."""
    yield user(f"Weather in {city}?")
    call = ToolCall(f"call_{city}", "get_weather", json.dumps({"city": city}))
    yield Message(role="assistant", tool_calls=(call,))


def weather(backend_host: str, **fields: Any) -> GenerationRequest:
    cities = ("London", "Rome", "Oslo", "Cairo", "Lima")
    shown = [message for city in cities for message in asked_before(city)]
    prompt = (*shown, user("Weather in Paris?"))
    model = require_model(backend_host, TOOLS)
    return chat(model=model, prompt=prompt, tools=(WEATHER,), max_tokens=60, **fields)


async def test_tool_is_called(backend: OllamaBackend, ollama_host: str):
    events = await events_of(backend, weather(ollama_host))
    started, arguments = events[1:3]
    assert isinstance(started, ToolCallStarted)
    assert isinstance(arguments, ToolCallDelta)
    assert (started.index, started.name) == (0, "get_weather")
    assert started.id.startswith("call_")
    assert json.loads(arguments.arguments) == {"city": "Paris"}
    assert end_of(events).reason == "tool_calls"


async def test_tool_is_withheld_when_the_choice_is_none(backend: OllamaBackend, ollama_host: str):
    with_tools = await events_of(backend, weather(ollama_host))
    without = await events_of(backend, weather(ollama_host, tool_choice="none"))
    prompts = [end_of(events).usage.prompt_tokens for events in (with_tools, without)]
    assert prompts[1] < prompts[0]


async def test_result_of_a_tool_is_read(backend: OllamaBackend, ollama_host: str):
    result = Message(role="tool", tool_call_id="call_Rome", content=(TextPart("21 degrees"),))
    model = require_model(ollama_host, TOOLS)
    asked = tuple(asked_before("Rome"))
    request = chat(model=model, prompt=(*asked, result), tools=(WEATHER,), max_tokens=4)
    without = chat(model=model, prompt=asked, tools=(WEATHER,), max_tokens=4)
    read, unread = [await events_of(backend, each) for each in (request, without)]
    assert end_of(read).usage.prompt_tokens > end_of(unread).usage.prompt_tokens


async def test_thinking_is_asked_for_and_switched_off(backend: OllamaBackend, ollama_host: str):
    model = require_model(ollama_host, THINK)
    for effort, expected in (("low", ReasoningDelta), ("none", TextDelta)):
        request = chat(model=model, reasoning_effort=effort, max_tokens=5)
        deltas = (await events_of(backend, request))[1:-1]
        assert deltas
        assert {type(delta) for delta in deltas} == {expected}


IMAGE = Message(role="user", content=(ImagePart(f"data:image/png;base64,{PIXEL}"),))


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"model": "no-such-model"}, ModelNotFoundError, "model"),
        ({"reasoning_effort": "low"}, UnsupportedParameterError, "reasoning_effort"),
        ({"prompt": (IMAGE,)}, UnsupportedParameterError, "images"),
        (
            {"response_format": JSONSchema({"type": "nonsense"}, strict=True)},
            InvalidRequestError,
            "response_format",
        ),
    ],
)
async def test_refusal(
    backend: OllamaBackend, fields: dict[str, Any], kind: type[BackendError], param: str
):
    with pytest.raises(BackendError) as caught:
        await events_of(backend, chat(**fields))
    assert (type(caught.value), caught.value.param) == (kind, param)


@pytest.mark.parametrize("raw", [False, True])
async def test_prompt_that_does_not_fit_is_refused_with_both_numbers(
    backend: OllamaBackend, raw: bool
):
    text = "zebra " * 40_000
    with pytest.raises(ContextLengthError, match=r"holds 8192 tokens; .* (has|least) 4\d{4}\."):
        await events_of(backend, chat(prompt=text if raw else (user(text),), max_tokens=1))


async def test_cancelling_stops_the_work(backend: OllamaBackend):
    events = sink.events(backend, LONG)
    for _ in range(3):
        await anext(events)
    await events.aclose()
    counters = (await backend.health()).counters
    assert (counters["active"], counters["cancelled"]) == (0, 1)
    await events_of(backend, chat(max_tokens=1))


async def test_models_are_listed_with_what_they_can(backend: OllamaBackend, ollama_host: str):
    await backend.load(PLAIN)
    models = {model.name: model for model in await backend.list_models()}
    assert "chat" in models[PLAIN].capabilities
    assert models[PLAIN].context_length == 8192
    assert models[PLAIN].quantization == "Q4_1"
    assert models[PLAIN].created > 1_600_000_000
    assert models[PLAIN].loaded is True
    assert "tools" in models[require_model(ollama_host, TOOLS)].capabilities
    assert "reasoning" in models[require_model(ollama_host, THINK)].capabilities


# --- with an Ollama that may be killed ---------------------------------------------------------


@pytest.fixture
async def mortal(ollama_process: OllamaProcess) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(OllamaConfig(host=ollama_process.host))
    yield backend
    await backend.aclose()


async def test_killed_before_the_first_word_and_started_again(
    mortal: OllamaBackend, ollama_process: OllamaProcess
):
    ollama_process.pause()
    waiting = asyncio.create_task(events_of(mortal, LONG))
    await pause(0.1)  # A program that is stopped accepts no request.
    ollama_process.kill()
    with pytest.raises(BackendUnavailableError):
        await asyncio.wait_for(waiting, 20)
    assert (await mortal.health()).ok is False
    ollama_process.start()
    events = await events_of(mortal, chat(max_tokens=24))
    assert text_of(events) == "The capital of France is Paris."


async def test_a_pin_holds_through_requests_and_ends_when_it_is_let_go(backend: OllamaBackend):
    async def expires_at() -> float | None:
        (running,) = [model for model in await backend.list_running() if model.name == PLAIN]
        return running.expires_at

    await backend.load(PLAIN, 120.0)
    await backend.set_pinned(PLAIN, True)
    await events_of(backend, chat("Hello", max_tokens=2, keep_alive=120.0))
    assert await expires_at() is None
    await backend.set_pinned(PLAIN, False)
    assert await expires_at() is not None


async def test_killed_while_it_loads_the_model(
    mortal: OllamaBackend, ollama_process: OllamaProcess
):
    await mortal.unload(PLAIN)
    waiting = asyncio.create_task(events_of(mortal, LONG))
    await pause(0.05)
    ollama_process.kill()
    with pytest.raises((BackendUnavailableError, BadUpstreamError)):
        await asyncio.wait_for(waiting, 20)


async def test_model_that_a_request_waits_for_is_reported_as_loading(mortal: OllamaBackend):
    await mortal.unload(PLAIN)
    events = sink.events(mortal, LONG)
    first = asyncio.ensure_future(anext(events))
    await until(lambda: [*mortal.loading()] == [PLAIN])
    await first
    assert mortal.loading() == {}
    await events.aclose()


async def test_killed_after_the_third_word(mortal: OllamaBackend, ollama_process: OllamaProcess):
    events = sink.events(mortal, LONG)
    said = [await anext(events) for _ in range(4)]
    ollama_process.kill()
    with pytest.raises(BadUpstreamError, match="ended before it was done"):
        async with asyncio.timeout(20):
            said += [event async for event in events]
    assert isinstance(said[0], Started)
    assert said[0].context == 4096
    assert all(isinstance(event, TextDelta) for event in said[1:])


@pytest.mark.parametrize("request_", [LONG, READING], ids=["answer", "prompt"])
async def test_cancelling_is_seen_in_ollamas_log(
    mortal: OllamaBackend, ollama_process: OllamaProcess, request_: GenerationRequest
):
    # Facts about a model are fetched once: the next request is sent without delay.
    await events_of(mortal, chat("Hi", max_tokens=1))
    before = ollama_process.log().count(NOTED)
    with anyio.move_on_after(0.5):  # Long before either of them would be done.
        await events_of(mortal, request_)
    # Ollama notes a request when it ends, and finishes a load that it is at; either of them would
    # take far longer to its end.
    await until(lambda: ollama_process.log().count(NOTED) > before)
    assert (await mortal.health()).counters["cancelled"] == 1
