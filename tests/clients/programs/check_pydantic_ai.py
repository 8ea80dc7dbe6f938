"""pydantic-ai with its chat model for OpenAI."""

import os
from typing import Literal

import pydantic
import pytest
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

MODEL = OpenAIChatModel(
    os.environ["TANDEM_MODEL"],
    provider=OpenAIProvider(base_url=f"{os.environ['TANDEM_URL']}/v1", api_key="x"),
)
SETTINGS = {"max_tokens": 200}
needs_capable_model = pytest.mark.skipif(
    not os.environ["TANDEM_CAPABLE"], reason="the model does not follow instructions"
)


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


async def test_text():
    answer = await Agent(MODEL, model_settings=SETTINGS).run("Say hello.")
    assert answer.output
    assert answer.usage.output_tokens > 0


async def test_stream():
    async with Agent(MODEL, model_settings=SETTINGS).run_stream("Say hello.") as stream:
        *_, last = [text async for text in stream.stream_text()]
        assert last == await stream.get_output()


@pytest.mark.parametrize("form", [ToolOutput, NativeOutput])
async def test_output_type_is_enforced(form: type):
    agent = Agent(MODEL, output_type=form(Weather), model_settings=SETTINGS)
    answer = await agent.run("The weather in Paris for 3 days.")
    assert isinstance(answer.output, Weather)


@needs_capable_model
@pytest.mark.parametrize("form", [ToolOutput, NativeOutput, PromptedOutput])
async def test_tool_and_output_type(form: type):
    agent = Agent(MODEL, output_type=form(Weather), model_settings=SETTINGS)
    called = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        called.append(city)
        return "The weather in Rome for 3 days"

    answer = await agent.run("What is the weather in Rome?")
    assert isinstance(answer.output, Weather)
    assert called == ["Rome"]


@needs_capable_model
async def test_tool_loop():
    agent = Agent(MODEL, model_settings=SETTINGS)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        return f"17 degrees in {city}"

    answer = await agent.run("What is the weather in Paris?")
    assert "17 degrees in Paris" in answer.output
