import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapters.mlx import blas
from adapters.mlx.models import bundled

if TYPE_CHECKING:
    from adapters.mlx.grammar.compiler import GrammarCompiler

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


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The byte vocabulary of `tiny_model`."""
    from fakes.tiny_model import write_tiny_model
    from mlx_lm.tokenizer_utils import load

    return load(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def compiler(tokenizer: Any) -> "GrammarCompiler":
    from fakes.tiny_model import END

    from adapters.mlx.grammar.compiler import GrammarCompiler

    return GrammarCompiler(tokenizer, frozenset({END}))
