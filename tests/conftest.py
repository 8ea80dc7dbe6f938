import pytest

# Fixtures that tests of several folders use.
from ollama_server import ollama_host, ollama_process

__all__ = ["ollama_host", "ollama_process"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
