"""The goals for the path of a streamed token, measured by `tools/spine.py`."""

import pytest
import uvloop

from tools.spine import Row, rows

pytestmark = [pytest.mark.slow, pytest.mark.long]

FUNCTIONS, FILES, CALLS = 15, 9, 12
"""The most on the spine of one answer, and the most calls of functions for each token."""


@pytest.fixture(scope="module")
def measured(unrecorded: None) -> list[Row]:
    async def collect() -> list[Row]:
        return [row async for row in rows()]

    return uvloop.run(collect())


def test_every_dialect_is_measured_on_each_engine(measured: list[Row]) -> None:
    assert [(row.dialect, row.backend) for row in measured] == [
        ("/v1/chat/completions", "ollama"),
        ("/v1/responses", "ollama"),
        ("/v1/messages", "ollama"),
        ("/v1/completions (prompt)", "ollama"),
        ("/api/chat", "ollama"),
        ("/api/chat (prompt)", "ollama"),
        ("/v1/chat/completions", "mlx"),
        ("/v1/responses", "mlx"),
        ("/v1/messages", "mlx"),
        ("/v1/completions (prompt)", "mlx"),
        ("/api/chat", "mlx"),
        ("/api/mlx/generate (prompt)", "mlx"),
    ]


def test_an_engine_is_few_functions_away(measured: list[Row]) -> None:
    for row in measured:
        assert 5 < len(row.spine) <= FUNCTIONS, row
        assert len(row.files) <= FILES, row


def test_a_token_is_few_calls(measured: list[Row]) -> None:
    for row in measured:
        assert 1 < row.calls <= CALLS, row
