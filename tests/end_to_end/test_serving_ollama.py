"""Ollama's promises as a client sees them: the real server, a real Ollama, the official SDK."""

import base64
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from openai import BadRequestError, OpenAI
from servers.ollama_server import EMBED, FILL, PLAIN, THINK, TOOLS, require_model
from servers.server_process import Running, serving, write

pytestmark = [pytest.mark.ollama, pytest.mark.long]

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": PARAMETERS,
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
CAPITAL = {
    "type": "object",
    "properties": {"capital": {"enum": ["Paris", "Rome"]}, "sunny": {"type": "boolean"}},
    "required": ["capital", "sunny"],
    "additionalProperties": False,
}
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "strict": True, "schema": CAPITAL},
}
FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ollama_host: str) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("ollama-only")
    with serving(
        write(folder, f"backends: {{mlx: null, ollama: {{host: '{ollama_host}'}}}}")
    ) as it:
        yield it


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[OpenAI]:
    with server.sdk() as client:
        yield client


def chat(client: OpenAI, text: str = FRANCE, **fields: Any) -> Any:
    body: dict[str, Any] = {"model": PLAIN, "temperature": 0, "max_tokens": 60}
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(messages=messages, **(body | fields))


def refusal(client: OpenAI, **fields: Any) -> tuple[str | None, str | None]:
    """The parameter that a 400 names, and its code."""
    with pytest.raises(BadRequestError) as caught:
        chat(client, **fields)
    return caught.value.param, caught.value.code


# --- calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [PLAIN, TOOLS])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_call_is_made_when_it_is_forced(client: OpenAI, ollama_host: str, model: str, choice: Any):
    require_model(ollama_host, model)
    fields: dict[str, Any] = {"model": model, "tools": [WEATHER], "tool_choice": choice}
    answer = chat(client, "Weather in Paris?", **fields).choices[0]
    (call,) = answer.message.tool_calls
    assert (answer.finish_reason, call.function.name) == ("tool_calls", "get_weather")
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
    assert not answer.message.content


def test_named_call_is_that_one_among_several(client: OpenAI):
    answer = chat(client, "What time is it?", tools=[CLOCK, WEATHER], tool_choice=NAMED)
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_forced_call_streamed_is_the_one_not_streamed(client: OpenAI):
    fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required"}
    whole = chat(client, "Weather in Paris?", **fields).choices[0].message.tool_calls[0]
    chunks = list(chat(client, "Weather in Paris?", stream=True, **fields))
    deltas = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
    assert {delta.index for delta in deltas} == {0}
    assert [bool(delta.id) for delta in deltas] == [True] + [False] * (len(deltas) - 1)
    assert deltas[0].function.name == whole.function.name
    assert "".join(d.function.arguments or "" for d in deltas) == whole.function.arguments
    assert len(deltas) > 2  # It comes as it is written.
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_call_cut_by_the_limit_is_no_success(client: OpenAI):
    answer = chat(client, "Weather?", tools=[WEATHER], tool_choice="required", max_tokens=8)
    assert answer.choices[0].finish_reason == "length"


def test_tools_of_a_model_without_them_are_told_in_words(client: OpenAI):
    forced = {"type": "function", "function": {"name": WEATHER["function"]["name"]}}
    answer = chat(client, tools=[WEATHER], tool_choice=forced)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == WEATHER["function"]["name"]
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_tool_and_format_together_give_a_call_or_the_format(client: OpenAI, ollama_host: str):
    model = require_model(ollama_host, TOOLS)
    answer = chat(client, "Weather?", model=model, tools=[WEATHER], response_format=FORMAT)
    (choice,) = answer.choices
    if choice.message.tool_calls:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls[0].function.name == WEATHER["function"]["name"]
    else:
        jsonschema.validate(json.loads(choice.message.content), CAPITAL)


# --- shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_strict_schema_is_kept(client: OpenAI, streamed: bool):
    answer = chat(client, response_format=FORMAT, stream=streamed)
    chunks = list(answer) if streamed else []
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        if streamed
        else answer.choices[0].message.content
    )
    jsonschema.validate(json.loads(text), CAPITAL)
    end = chunks[-1] if streamed else answer
    assert end.choices[0].finish_reason == "stop"


def test_json_cut_by_the_limit_says_length(client: OpenAI):
    answer = chat(client, response_format={"type": "json_object"}, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"


# --- several answers -------------------------------------------------------------------------


def test_choices_are_the_answers_of_seeds_in_a_row(client: OpenAI):
    fields = {"temperature": 1.5, "max_tokens": 8}
    both = chat(client, n=2, seed=5, **fields)
    single = [chat(client, seed=seed, **fields).choices[0].message.content for seed in (5, 6)]
    assert [choice.message.content for choice in both.choices] == single
    assert [choice.index for choice in both.choices] == [0, 1]
    assert single[0] != single[1]
    assert both.usage.completion_tokens > 8


# --- reasoning -------------------------------------------------------------------------------


def test_reasoning_is_told_apart_and_switched_off(client: OpenAI, ollama_host: str):
    model = require_model(ollama_host, THINK)
    thinking, plain = [
        chat(client, model=model, reasoning_effort=effort, max_tokens=6).choices[0].message
        for effort in ("low", "none")
    ]
    assert (bool(thinking.reasoning_content), bool(thinking.content)) == (True, False)
    assert plain.content
    assert getattr(plain, "reasoning_content", None) is None


@pytest.mark.parametrize("effort", ["low", "none"])
def test_thoughts_are_followed_by_the_answer_of_the_schema(
    client: OpenAI, ollama_host: str, effort: str
):
    """This model ends with its thoughts: the answer is asked for all the same."""
    model = require_model(ollama_host, THINK)
    answer = chat(client, model=model, reasoning_effort=effort, response_format=FORMAT)
    jsonschema.validate(json.loads(answer.choices[0].message.content), CAPITAL)


# --- raw text --------------------------------------------------------------------------------


def test_completion_echoes_its_prompt(client: OpenAI):
    prompt = "The capital of France is"
    fields: dict[str, Any] = {"model": PLAIN, "prompt": prompt, "max_tokens": 2, "temperature": 0}
    plain, echo = [client.completions.create(**fields, echo=e) for e in (False, True)]
    assert echo.choices[0].text == prompt + plain.choices[0].text
    assert plain.usage == echo.usage


def test_gap_is_filled_by_the_models_own_template(client: OpenAI, ollama_host: str):
    fields: dict[str, Any] = {"prompt": "def add(a, b):", "suffix": "\n", "max_tokens": 4}
    model = require_model(ollama_host, FILL)
    answer = client.completions.create(model=model, **fields)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 20  # The words of the template are in it.
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(model=PLAIN, **fields)
    assert caught.value.param == "suffix"


# --- vectors ---------------------------------------------------------------------------------


def test_vectors_are_the_same_as_floats_and_as_base64(client: OpenAI, ollama_host: str):
    model = require_model(ollama_host, EMBED)
    texts = ["a cat", "a kitten", "the price of steel"]
    floats = client.embeddings.create(model=model, input=texts, encoding_format="float")
    packed: Any = client.embeddings.with_raw_response.create(
        model=model, input=texts, encoding_format="base64"
    ).http_response.json()
    unpacked = [
        struct.unpack("<384f", base64.b64decode(each["embedding"])) for each in packed["data"]
    ]
    vectors = [each.embedding for each in floats.data]
    assert all(v == pytest.approx(u, abs=1e-6) for v, u in zip(vectors, unpacked, strict=True))
    assert _cosine(vectors[0], vectors[1]) > 0.5 > _cosine(vectors[0], vectors[2])


def test_vector_is_cut_to_its_dimensions(client: OpenAI, ollama_host: str):
    model = require_model(ollama_host, EMBED)
    whole = client.embeddings.create(model=model, input="a cat").data[0].embedding
    cut = client.embeddings.create(model=model, input="a cat", dimensions=32).data[0].embedding
    assert len(cut) == 32
    assert _cosine(cut, whole[:32]) == pytest.approx(1, abs=1e-5)
    assert math.hypot(*cut) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": [1, 2]}, "input", "unsupported_parameter"),
        ({"input": "word " * 600}, "input", "context_length_exceeded"),
        ({"input": "a", "dimensions": 999}, "dimensions", None),
        ({"input": "a", "model": PLAIN}, "model", "unsupported_parameter"),
    ],
)
def test_embedding_that_cannot_be_is_refused_by_name(
    client: OpenAI, ollama_host: str, fields: dict[str, Any], param: str, code: str | None
):
    require_model(ollama_host, EMBED)
    asked: dict[str, Any] = {"model": EMBED, **fields}
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(**asked)
    assert (caught.value.param, caught.value.code) == (param, code)


def _cosine(one: Any, other: Any) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.hypot(*one) / math.hypot(*other)


# --- what it tells ---------------------------------------------------------------------------


def test_model_is_listed_with_all_that_show_tells(client: OpenAI):
    headers = client.chat.completions.with_raw_response.create(
        model=PLAIN, messages=[{"role": "user", "content": "Hi"}], max_tokens=1
    ).headers
    client.models.list()
    card: Any = client.models.retrieve(PLAIN)
    assert (card.context_length, card.quantization, card.capabilities) == (8192, "Q4_1", ["chat"])
    assert card.size_bytes > 50_000_000
    assert len(card.digest) == 64
    assert int(headers["x-tandem-context"]) >= 4096
