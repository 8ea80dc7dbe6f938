"""LlamaIndex: its class for OpenAI-compatible servers, and its embeddings."""

import os
from typing import Literal

import pydantic
import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai_like import OpenAILike

URL = f"{os.environ['TANDEM_URL']}/v1"
needs_capable_model = pytest.mark.skipif(
    not os.environ["TANDEM_CAPABLE"], reason="the model does not follow instructions"
)


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


@pytest.fixture
def llm() -> OpenAILike:
    return OpenAILike(
        model=os.environ["TANDEM_MODEL"],
        api_base=URL,
        api_key="x",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        max_tokens=200,
        context_window=4096,
    )


def test_chat(llm: OpenAILike):
    assert llm.chat([ChatMessage(role="user", content="Say hello.")]).message.content


def test_stream(llm: OpenAILike):
    *_, last = llm.stream_chat([ChatMessage(role="user", content="Say hello.")])
    assert last.message.content


async def test_asynchronous_stream(llm: OpenAILike):
    stream = await llm.astream_chat([ChatMessage(role="user", content="Say hello.")])
    assert "".join([part.delta async for part in stream if part.delta])


def test_completion():
    llm = OpenAILike(
        model=os.environ["TANDEM_MODEL"], api_base=URL, api_key="x", max_retries=0, max_tokens=8
    )
    assert llm.complete("Once upon a time").raw


@pytest.mark.parametrize("streamed", [False, True])
def test_structured_prediction_by_a_forced_call(llm: OpenAILike, streamed: bool):
    structured = llm.as_structured_llm(Weather)
    messages = [ChatMessage(role="user", content="The weather in Paris for 3 days.")]
    if streamed:
        *_, answer = structured.stream_chat(messages)
    else:
        answer = structured.chat(messages)
    assert isinstance(answer.raw, Weather)


@needs_capable_model
async def test_agent(llm: OpenAILike):
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        return f"17 degrees in {city}"

    agent = FunctionAgent(tools=[FunctionTool.from_defaults(get_weather)], llm=llm)
    answer = await agent.run(user_msg="What is the weather in Paris?")
    assert "17 degrees in Paris" in str(answer)


@pytest.mark.skipif(
    not os.environ["TANDEM_EMBEDDING_MODEL"], reason="the server has no model that embeds"
)
def test_embeddings():
    embedding = OpenAIEmbedding(
        model_name=os.environ["TANDEM_EMBEDDING_MODEL"], api_base=URL, api_key="x", max_retries=0
    )
    assert len(embedding.get_text_embedding_batch(["a", "b"])) == 2
