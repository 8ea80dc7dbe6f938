import asyncio
from pathlib import Path

import pytest

from adapters.mlx import blas
from adapters.mlx.models import bundled, catalog

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
