import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from adapters.mlx import blas
from adapters.mlx.models import bundled

# Before any test imports mlx: afterwards it has no effect.
blas.preload()

from fakes.tiny_model import config_for  # noqa: E402

from adapters.config import MLXConfig  # noqa: E402
from adapters.mlx.backend import MLXBackend  # noqa: E402
from adapters.mlx.engine.engine import Engine  # noqa: E402


@pytest.fixture
def config(folder: Path) -> MLXConfig:
    """The models in `folder`, which each module has of its own."""
    return config_for(folder)


@pytest.fixture
def engine(config: MLXConfig) -> Engine:
    """Closed by its backend."""
    return Engine(config)


@pytest.fixture
async def backend(config: MLXConfig, engine: Engine) -> AsyncGenerator[MLXBackend]:
    async with aclosing(MLXBackend(config, engine=engine)) as backend:
        yield backend


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    path = bundled.find_gguf()
    assert path is not None, "the dependency group `embedded` is not installed"
    return path


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The real model, converted into the user's cache: once per machine, not once per session."""
    return asyncio.run(bundled.ensure_converted(bundled.cache_folder(None)))
