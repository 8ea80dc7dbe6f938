import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapters.mlx import blas
from adapters.mlx.models import bundled, catalog

if TYPE_CHECKING:
    from adapters.mlx.grammar.compiler import GrammarCompiler

# Before any test imports mlx: afterwards it has no effect.
blas.preload()


@pytest.fixture(autouse=True)
def no_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user of this machine has imported is no matter of the tests."""

    def folder(given: str | None) -> Path:
        return bundled.imports_folder(given or "/no/cache/here")

    monkeypatch.setattr(catalog, "imports_folder", folder)


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
