"""The official OpenAI SDK for Python."""

import os
from collections.abc import Iterator
from typing import Literal

import openai
import pydantic
import pytest
from openai import OpenAI, pydantic_function_tool

MODEL, EMBEDDING_MODEL = os.environ["TANDEM_MODEL"], os.environ["TANDEM_EMBEDDING_MODEL"]
HI = [{"role": "user", "content": "Say hello."}]
needs_capable_model = pytest.mark.skipif(
    not os.environ["TANDEM_CAPABLE"], reason="the model does not follow instructions"
)


@pytest.fixture
def client() -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{os.environ['TANDEM_URL']}/v1", api_key="x", max_retries=0) as client:
        yield client


class GetWeather(pydantic.BaseModel):
    """Tells the weather."""

    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


def test_answer(client: OpenAI):
    answer = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0
    assert answer._request_id


def test_stream_with_usage(client: OpenAI):
    with client.chat.completions.stream(
        model=MODEL,
        messages=HI,
        max_tokens=200,
        stop=[" "],  # The helper refuses an answer that the limit has cut.
        stream_options={"include_usage": True},
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content
    assert final.usage.total_tokens > 0


def test_forced_call_is_parsed(client: OpenAI):
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "The weather in Paris for 3 days?"}],
        tools=[pydantic_function_tool(GetWeather)],
        tool_choice={"type": "function", "function": {"name": "GetWeather"}},
        max_tokens=200,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_streamed_call_is_put_together(client: OpenAI):
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "The weather in Paris for 3 days?"}],
        tools=[pydantic_function_tool(GetWeather)],
        tool_choice="required",
        max_tokens=200,
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert isinstance(final.choices[0].message.tool_calls[0].function.parsed_arguments, GetWeather)


def test_structured_output(client: OpenAI):
    answer = client.chat.completions.parse(
        model=MODEL, messages=HI, response_format=GetWeather, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, GetWeather)


@needs_capable_model
def test_tool_loop(client: OpenAI):
    messages = [{"role": "user", "content": "What is the weather in Paris for 3 days?"}]
    tools = [pydantic_function_tool(GetWeather, name="get_weather")]
    asked = client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    assert asked.choices[0].finish_reason == "tool_calls"
    (call,) = asked.choices[0].message.tool_calls
    assert GetWeather.model_validate_json(call.function.arguments) == GetWeather(
        city="Paris", days=3
    )
    messages += [
        asked.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    assert "17 degrees" in answer.choices[0].message.content


@needs_capable_model
def test_custom_tool_is_put_together_by_the_accumulator(client: OpenAI):
    tools = [{"type": "custom", "custom": {"name": "write_poem", "description": "Takes a poem."}}]
    messages = [{"role": "user", "content": "Write a poem about Rome."}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.type, call.custom.name) == ("custom", "write_poem")
    text, kinds = "", set()
    for chunk in client.chat.completions.create(
        model=MODEL, messages=messages, tools=tools, stream=True
    ):
        for delta in chunk.choices[0].delta.tool_calls or ():
            kinds.add(delta.type)
            text += delta.custom["input"]
    assert kinds == {"custom", None}
    assert text == call.custom.input


def test_response_is_continued(client: OpenAI):
    first = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=24)
    assert first.output_text
    second = client.responses.create(
        model=MODEL,
        input="And again.",
        previous_response_id=first.id,
        max_output_tokens=24,
    )
    assert len(list(client.responses.input_items.list(second.id))) == 3


def test_streamed_response(client: OpenAI):
    with client.responses.stream(model=MODEL, input="Say hello.", max_output_tokens=24) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text


def test_parsed_response(client: OpenAI):
    answer = client.responses.parse(
        model=MODEL, input="Say hello.", text_format=GetWeather, max_output_tokens=200
    )
    assert isinstance(answer.output_parsed, GetWeather)


def test_background_response(client: OpenAI):
    answer = client.responses.create(
        model=MODEL, input="Say hello.", max_output_tokens=24, background=True
    )
    while answer.status in ("queued", "in_progress"):
        answer = client.responses.retrieve(answer.id)
    assert answer.status in ("completed", "incomplete")
    assert answer.output_text


def test_completion(client: OpenAI):
    answer = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=4)
    assert answer.usage.completion_tokens > 0


def test_models(client: OpenAI):
    assert MODEL.partition(":")[0] in "".join(model.id for model in client.models.list())
    assert client.models.retrieve(MODEL).object == "model"


@pytest.mark.skipif(not EMBEDDING_MODEL, reason="the server has no model that embeds")
def test_embeddings(client: OpenAI):
    encoded = client.embeddings.create(model=EMBEDDING_MODEL, input=["a", "b"])
    numbers = client.embeddings.create(
        model=EMBEDDING_MODEL, input=["a", "b"], encoding_format="float"
    )
    assert len(encoded.data) == 2
    assert encoded.data[0].embedding == pytest.approx(numbers.data[0].embedding, abs=1e-5)


def test_errors_are_those_of_the_sdk(client: OpenAI):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such-model", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=HI, temperature=7)
    assert wrong.value.param == "temperature"
