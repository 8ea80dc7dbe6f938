"""LiteLLM, which its own proxy, Google's ADK, CrewAI and DSPy send requests by."""

import asyncio
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Read at the import; else it is downloaded.

import litellm
import pydantic
import pytest
from litellm import exceptions

URL = os.environ["TANDEM_URL"]
MODEL = os.environ["TANDEM_MODEL"]
EMBEDDING_MODEL = os.environ["TANDEM_EMBEDDING_MODEL"]
NEEDS_CAPABLE = pytest.mark.skipif(
    not os.environ["TANDEM_CAPABLE"], reason="the model does not follow instructions"
)
ROUTES = {
    "openai": f"{URL}/v1",
    "openai/responses": f"{URL}/v1",
    "hosted_vllm": f"{URL}/v1",
    "lm_studio": f"{URL}/v1",
    "anthropic": URL,
    "ollama_chat": URL,
    "ollama": URL,
}
HELLO = [{"role": "user", "content": "Say hello."}]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


class City(pydantic.BaseModel):
    name: str
    big: bool


def sent_by(route: str, **fields: Any) -> dict[str, Any]:
    address = {"api_base": ROUTES[route], "api_key": "x", "num_retries": 0}
    return {"model": f"{route}/{MODEL}", "max_tokens": 200, **address, **fields}


@pytest.mark.parametrize("route", ROUTES)
def test_answer(route: str):
    answer = litellm.completion(messages=HELLO, **sent_by(route, max_tokens=8))
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize("route", ROUTES)
async def test_streams_side_by_side(route: str):
    async def streamed() -> str:
        fields = sent_by(route, max_tokens=8, stream=True)
        stream = await litellm.acompletion(messages=HELLO, **fields)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert all(await asyncio.gather(streamed(), streamed(), streamed()))


@pytest.mark.parametrize("route", [route for route in ROUTES if "ollama" not in route])
def test_forced_call(route: str):
    fields = sent_by(route, tools=[WEATHER], tool_choice="required")
    answer = litellm.completion(messages=QUESTION, **fields)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"


@NEEDS_CAPABLE
@pytest.mark.parametrize("route", [route for route in ROUTES if route != "ollama"])
def test_tool_loop(route: str):
    first = litellm.completion(messages=QUESTION, **sent_by(route, tools=[WEATHER]))
    asked = first.choices[0].message
    (call,) = asked.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*QUESTION, asked, result]
    second = litellm.completion(messages=messages, **sent_by(route, tools=[WEATHER]))
    assert "sunny" in second.choices[0].message.content


@pytest.mark.parametrize("route", ROUTES)
def test_structured_output(route: str):
    question = [{"role": "user", "content": "Which city has the Eiffel tower?"}]
    answer = litellm.completion(messages=question, **sent_by(route, response_format=City))
    City.model_validate_json(answer.choices[0].message.content)


@pytest.mark.parametrize("route", ROUTES)
def test_unknown_model(route: str):
    with pytest.raises(exceptions.NotFoundError):
        litellm.completion(messages=HELLO, **sent_by(route, model=f"{route}/nope:1b"))


@pytest.mark.parametrize("route", ["openai", "ollama_chat", "anthropic"])
def test_invalid_field(route: str):
    with pytest.raises(exceptions.BadRequestError):
        litellm.completion(messages=HELLO, **sent_by(route, temperature=-3))


@pytest.mark.skipif(not EMBEDDING_MODEL, reason="the server has no model that embeds")
@pytest.mark.parametrize("route", ["openai", "hosted_vllm", "ollama"])
def test_embeddings(route: str):
    fields = sent_by(route, model=f"{route}/{EMBEDDING_MODEL}")
    del fields["max_tokens"]
    answer = litellm.embedding(input=["Hello", "Bye"], **fields)
    assert len(answer.data) == 2
