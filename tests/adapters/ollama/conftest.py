from collections.abc import AsyncIterator

import pytest
from fakes.recorded_ollama import StandIn, stand_in

from adapters.config import OllamaConfig
from adapters.ollama.backend import OllamaBackend


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with stand_in() as server:
        yield server


@pytest.fixture
async def backend(standin: StandIn) -> AsyncIterator[OllamaBackend]:
    """A backend with the stand-in as its Ollama, and little patience."""
    config = OllamaConfig(host=standin.host, first_token_timeout=0.4, token_timeout=0.2)
    backend = OllamaBackend(config)
    yield backend
    await backend.aclose()
