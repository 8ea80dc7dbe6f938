"""Anthropic's SDK for Python."""

import json
import os
from typing import Literal

import anthropic
import pydantic
import pytest
from anthropic import beta_async_tool, beta_tool

MODEL = os.environ["TANDEM_MODEL"]
SETTINGS = {"base_url": os.environ["TANDEM_URL"], "api_key": "x", "max_retries": 0}
NEEDS_CAPABLE = pytest.mark.skipif(
    not os.environ["TANDEM_CAPABLE"], reason="the model does not follow instructions"
)
HELLO = [{"role": "user", "content": "Say hello."}]
QUESTION = [{"role": "user", "content": "What is the weather in Paris for 3 days?"}]


class Weather(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "input_schema": Weather.model_json_schema(),
}


@pytest.fixture
def client():
    with anthropic.Anthropic(**SETTINGS) as opened:
        yield opened


def text_of(message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_message(client):
    answer = client.messages.create(model=MODEL, messages=HELLO, max_tokens=8)
    assert text_of(answer)
    assert answer.usage.output_tokens > 0
    assert answer.stop_reason in ("end_turn", "max_tokens")


def test_stream_of_events(client):
    stream = client.messages.create(model=MODEL, messages=HELLO, max_tokens=8, stream=True)
    kinds = [event.type for event in stream]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


def test_stream_helper(client):
    with client.messages.stream(model=MODEL, messages=HELLO, max_tokens=8) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(final) == stream.get_final_text()
    assert final.usage.output_tokens > 0


def test_stream_can_be_left(client):
    with client.messages.stream(model=MODEL, messages=HELLO, max_tokens=1000) as stream:
        assert next(iter(stream)).type == "message_start"
    assert text_of(client.messages.create(model=MODEL, messages=HELLO, max_tokens=8))


def test_forced_call(client):
    choice = {"type": "tool", "name": "get_weather"}
    answer = client.messages.create(
        model=MODEL, messages=QUESTION, tools=[WEATHER], tool_choice=choice, max_tokens=200
    )
    assert answer.stop_reason == "tool_use"
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    Weather.model_validate(call.input)


def test_streamed_call_is_put_together(client):
    pieces: list[str] = []
    with client.messages.stream(
        model=MODEL,
        messages=QUESTION,
        tools=[WEATHER],
        tool_choice={"type": "any"},
        max_tokens=200,
    ) as stream:
        for event in stream:
            if event.type == "input_json":
                pieces.append(event.partial_json)
        final = stream.get_final_message()
    (call,) = [block for block in final.content if block.type == "tool_use"]
    assert json.loads("".join(pieces)) == call.input


def test_parsed_answer(client):
    answer = client.messages.parse(
        model=MODEL, messages=QUESTION, output_format=Weather, max_tokens=200
    )
    assert isinstance(answer.parsed_output, Weather)


@NEEDS_CAPABLE
@pytest.mark.parametrize("stream", [False, True])
def test_tool_runner(client, stream: bool):
    called: list[str] = []

    @beta_tool
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        called.append(city)
        return "17 degrees"

    runner = client.beta.messages.tool_runner(
        model=MODEL, messages=QUESTION, tools=[get_weather], max_tokens=200, stream=stream
    )
    *_, last = [each.get_final_message() if stream else each for each in runner]
    assert "17 degrees" in text_of(last)
    assert called == ["Paris"]


@NEEDS_CAPABLE
async def test_asynchronous_tool_runner():
    @beta_async_tool
    async def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        return "17 degrees"

    async with anthropic.AsyncAnthropic(**SETTINGS) as client:
        runner = client.beta.messages.tool_runner(
            model=MODEL, messages=QUESTION, tools=[get_weather], max_tokens=200
        )
        last = await runner.until_done()
    assert "17 degrees" in text_of(last)


def test_counted_tokens(client):
    counts = [
        client.messages.count_tokens(model=MODEL, messages=HELLO, system=system).input_tokens
        for system in ("Be terse.", "Be terse. Answer in French.")
    ]
    assert 0 < counts[0] < counts[1]


def test_models(client):
    ids = [card.id for card in client.models.list(limit=1)]
    assert len(ids) == len(set(ids)) > 0
    assert client.models.retrieve(ids[0]).type == "model"


def test_errors_are_those_of_the_sdk(client):
    with pytest.raises(anthropic.NotFoundError, match="no-such-model") as missing:
        client.messages.create(model="no-such-model", messages=HELLO, max_tokens=8)
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model=MODEL, messages=HELLO, max_tokens=-1)
