from typing import Any

import pytest
from fakes.tiny_model import END, write_tiny_model

from adapters.mlx.grammar.compiler import GrammarCompiler


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mlx_lm.tokenizer_utils import load

    return load(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def compiler(tokenizer: Any) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, frozenset({END}))
