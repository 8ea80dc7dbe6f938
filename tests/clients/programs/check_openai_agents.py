"""The OpenAI Agents SDK, with its models for chat completions and, where served, for Responses."""

import json
import os
import urllib.request
from typing import Literal

import openai
import pydantic
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)

set_tracing_disabled(True)
URL = os.environ["TANDEM_URL"]
with urllib.request.urlopen(f"{URL}/openapi.json") as document:
    PATHS = json.load(document)["paths"]
needs_capable_model = pytest.mark.skipif(
    not os.environ["TANDEM_CAPABLE"], reason="the model does not follow instructions"
)
KINDS = [
    OpenAIChatCompletionsModel,
    pytest.param(
        OpenAIResponsesModel,
        marks=pytest.mark.skipif("/v1/responses" not in PATHS, reason="no /v1/responses yet"),
    ),
]
pytestmark = pytest.mark.parametrize("kind", KINDS)


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


@function_tool
def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"17 degrees in {city}"


def agent(kind: type, **fields: object) -> Agent:
    client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="x", max_retries=0)
    model = kind(model=os.environ["TANDEM_MODEL"], openai_client=client)
    settings = ModelSettings(max_tokens=200)
    return Agent(name="Tester", model=model, model_settings=settings, **fields)


async def test_default_model(kind: type):
    client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="x", max_retries=0)
    set_default_openai_client(client, use_for_tracing=False)
    settings = ModelSettings(max_tokens=200)
    made = Agent(name="Tester", model=os.environ["TANDEM_MODEL"], model_settings=settings)
    result = await Runner.run(made, "Say hello.")
    assert result.final_output
    assert (result.last_response_id or "").startswith("resp_")


async def test_text(kind: type):
    result = await Runner.run(agent(kind), "Say hello.")
    assert result.final_output


async def test_stream(kind: type):
    result = Runner.run_streamed(agent(kind), "Say hello.")
    events = [event.type async for event in result.stream_events()]
    assert "raw_response_event" in events
    assert result.final_output


async def test_output_type(kind: type):
    result = await Runner.run(agent(kind, output_type=Weather), "Paris for 3 days.")
    assert isinstance(result.final_output, Weather)


@needs_capable_model
async def test_tool_loop(kind: type):
    result = await Runner.run(agent(kind, tools=[get_weather]), "What is the weather in Paris?")
    assert "17 degrees in Paris" in result.final_output


@needs_capable_model
async def test_streamed_tool_loop(kind: type):
    result = Runner.run_streamed(agent(kind, tools=[get_weather]), "The weather in Paris?")
    async for _ in result.stream_events():
        pass
    assert "17 degrees in Paris" in result.final_output


@needs_capable_model
async def test_tool_and_output_type(kind: type):
    made = agent(kind, tools=[get_weather], output_type=Weather)
    result = await Runner.run(made, "What is the weather in Paris?")
    assert isinstance(result.final_output, Weather)


@needs_capable_model
async def test_handoff(kind: type):
    other = agent(kind)
    other.name = "Poet"
    result = await Runner.run(agent(kind, handoffs=[other]), "I want a poet.")
    assert result.last_agent.name == "Poet"
