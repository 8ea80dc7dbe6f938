"""The router without a server: names, choice, fallback and closing."""

import asyncio

import pytest

from adapters.config import EchoConfig, MLXConfig, OllamaConfig
from adapters.errors import ModelNotFoundError
from adapters.events import TextDelta
from adapters.request import EmbeddingRequest, GenerationRequest, Message, TextPart
from adapters.sink import events
from proxy.assembly import open_router
from proxy.config import Config, ModelConfig
from proxy.routing.router import Router

ECHO = Config(backends={"mlx": None, "ollama": None, "echo": EchoConfig(models=("org/echo",))})


def ask(model: str) -> GenerationRequest:
    return GenerationRequest(
        model=model, prompt=(Message(role="user", content=(TextPart("one two"),)),)
    )


async def text_of(router: Router, model: str) -> str:
    texts = [
        event.text async for event in events(router, ask(model)) if isinstance(event, TextDelta)
    ]
    return "".join(texts)


@pytest.mark.parametrize("name", ["org/echo", "echo", "echo/org/echo"])
async def test_router_answers_by_any_name_of_a_model(name: str):
    async with open_router(ECHO) as router:
        assert await text_of(router, name) == "one two"


async def test_open_router_has_listed_its_models():
    async with open_router(ECHO) as router:
        assert (await router.find("org/echo")).names == ("org/echo",)


async def test_router_refuses_as_the_server_does():
    async with open_router(ECHO) as router:
        with pytest.raises(ModelNotFoundError):
            await text_of(router, "unknown")
        with pytest.raises(ModelNotFoundError):
            await router.embed(EmbeddingRequest(model="unknown", inputs=("a",)))


async def test_router_opens_with_an_unreachable_engine_and_leaves_no_task():
    before = asyncio.all_tasks()
    away = OllamaConfig(host="http://127.0.0.1:9")
    nothing = MLXConfig(huggingface_cache=False, embedded="never", cache_folder="/nowhere")
    config = Config(
        backends={"mlx": nothing, "ollama": away, "echo": EchoConfig()},
        models={"mine": ModelConfig(names={"ollama": "a:7b"})},
    )
    async with open_router(config) as router:
        assert await text_of(router, "echo") == "one two"
    assert asyncio.all_tasks() == before
