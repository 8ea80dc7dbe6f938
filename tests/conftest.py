from collections.abc import Iterator
from pathlib import Path

import pytest

# Fixtures that tests of several folders use.
from servers.ollama_server import ollama_host, ollama_process

__all__ = ["ollama_host", "ollama_process"]


@pytest.fixture(autouse=True, scope="session")
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the user of this machine has benched is not what tests are about."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
