"""Every class of models keeps the contract, on a real Ollama."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from probes.class_probes import PROBES, cells, wait_for
from servers.ollama_classes import create_classes, every_class
from servers.ollama_server import PLAIN, own_ollama
from servers.server_process import serving, write

from adapters import sink
from adapters.config import OllamaConfig
from adapters.events import Event, Finished, ReasoningDelta, Started, TextDelta, ToolCallDelta
from adapters.ollama.backend import OllamaBackend
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Message,
    Regex,
    Sampling,
    TextPart,
    Tool,
)

pytestmark = [pytest.mark.ollama, pytest.mark.long, pytest.mark.timeout(300)]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"why": {"enum": ["sum", "guess"]}, "answer": {"enum": [1, 2]}},
    "required": ["why", "answer"],
    "additionalProperties": False,
}
STRICT = JSONSchema(SCHEMA, strict=True)
LEAN = ("qwen3.5", "jinja-think", "no-template")
"""One class by each way of rendering."""
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}
TOOL = Tool("get_weather", "The weather.", CITY | {"additionalProperties": False})
REFUSED = ("reasoning_effort",)
"""Parameters that a class may refuse by name: the model does not think."""


@pytest.fixture(scope="module")
def classes() -> Iterator[tuple[str, dict[str, str]]]:
    """An Ollama with a model of each class of `LEAN`."""
    with own_ollama() as server:
        yield server.host, create_classes(server, LEAN)


@pytest.fixture
async def backend(classes: tuple[str, dict[str, str]]) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(OllamaConfig(host=classes[0]))
    await backend.list_models()
    yield backend
    await backend.aclose()


def chat(model: str, text: str = "What is 1 + 1?", **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        **(
            {
                "model": model,
                "prompt": (Message(role="user", content=(TextPart(text),)),),
                "sampling": Sampling(temperature=1, seed=1),
                "max_tokens": 60,
            }
            | fields
        )
    )


async def events_of(backend: OllamaBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("name", LEAN)
async def test_schema_is_kept_in_its_order_without_a_thought(
    classes: tuple[str, dict[str, str]], backend: OllamaBackend, name: str
):
    request = chat(classes[1][name], response_format=STRICT, reasoning_effort="none")
    events = await events_of(backend, request)
    assert list(json.loads(text_of(events))) == ["why", "answer"]
    assert not [event for event in events if isinstance(event, ReasoningDelta)]
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == "stop"


@pytest.mark.parametrize("fields", [{}, {"tools": (TOOL,)}, {"reasoning_effort": "none"}])
@pytest.mark.parametrize("name", LEAN)
async def test_tokens_are_counted_as_the_loaded_model_counts_them(
    classes: tuple[str, dict[str, str]],
    backend: OllamaBackend,
    name: str,
    fields: dict[str, Any],
):
    request = chat(classes[1][name], max_tokens=1, **fields)
    await events_of(backend, request)
    counted = await backend.count_tokens(request)
    end = (await events_of(backend, request))[-1]
    assert isinstance(end, Finished)
    assert (counted.tokens, counted.exact) == (end.usage.prompt_tokens, True)


async def test_count_loads_no_model(classes: tuple[str, dict[str, str]], backend: OllamaBackend):
    model = classes[1]["qwen3.5"]
    await backend.unload(model)
    counted = await backend.count_tokens(chat(model, tools=(TOOL,)))
    assert not counted.exact
    assert model not in [running.name for running in await backend.list_running()]


async def test_thought_ends_before_the_schema(
    classes: tuple[str, dict[str, str]], backend: OllamaBackend
):
    """Some seeds think up to the limit, which is an answer that is cut."""
    events: list[Event] = []
    for seed in range(1, 8):
        request = chat(
            classes[1]["qwen3.5"],
            response_format=STRICT,
            reasoning_effort="low",
            sampling=Sampling(temperature=1, seed=seed),
            max_tokens=100,
        )
        events = await events_of(backend, request)
        last = events[-1]
        if isinstance(last, Finished) and last.reason == "stop":
            break
    assert list(json.loads(text_of(events))) == ["why", "answer"]
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.usage.reasoning_tokens
    assert len([event for event in events if isinstance(event, Started)]) == 1


async def test_json_mode_is_enforced(classes: tuple[str, dict[str, str]], backend: OllamaBackend):
    request = chat(classes[1]["no-template"], response_format=JSONObject(), max_tokens=12)
    assert text_of(await events_of(backend, request)).lstrip().startswith("{")


@pytest.mark.long
@pytest.mark.parametrize("name", LEAN)
async def test_call_is_forced(
    classes: tuple[str, dict[str, str]], backend: OllamaBackend, name: str
):
    request = chat(
        classes[1][name],
        "The weather in Paris?",
        tools=(TOOL,),
        tool_choice="required",
        reasoning_effort="none",
    )
    events = await events_of(backend, request)
    arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
    assert "".join(arguments.split()) == '{"city":"Paris"}'


async def test_pattern_is_the_whole_answer(
    classes: tuple[str, dict[str, str]], backend: OllamaBackend
):
    request = chat(
        PLAIN, "Is Paris in France?", response_format=Regex('"(yes|no)"'), reasoning_effort="none"
    )
    assert text_of(await events_of(backend, request)) in ('"yes"', '"no"')


async def test_message_is_continued(classes: tuple[str, dict[str, str]], backend: OllamaBackend):
    ask = Message(role="user", content=(TextPart("What is the capital of France?"),))
    begun = Message(role="assistant", content=(TextPart("The capital of France is"),))
    request = chat(
        classes[1]["jinja-think"],
        prompt=(ask, begun),
        continue_final_message=True,
        sampling=Sampling(temperature=0),
        max_tokens=4,
    )
    assert text_of(await events_of(backend, request)).startswith(" Paris")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", every_class())
def test_class_keeps_the_contract(name: str, tmp_path: Path):
    with own_ollama() as server:
        model = create_classes(server, [name])[name]
        text = f"backends: {{mlx: null, ollama: {{host: '{server.host}'}}}}"
        with serving(write(tmp_path, text)) as running:
            wait_for(running.port, model)
            outcome = dict(cells(running.port, model))
    wrong = {probe: cell for probe, cell in outcome.items() if cell.startswith("wrong")}
    assert wrong == {}
    refused = [cell for cell in outcome.values() if cell.startswith("refused")]
    assert all(cell.split()[1].rstrip(":") in REFUSED for cell in refused)
    assert len(outcome) == len(PROBES)
