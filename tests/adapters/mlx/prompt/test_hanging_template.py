"""A template that loops for some conversations: an error for these, answers for all others."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from fakes.scripted_model import answer, chat
from fakes.tiny_model import TEMPLATE, config_for, write_tiny_model

from adapters.chat_template.confined import TemplateLimitError
from adapters.events import Finished
from adapters.mlx.backend import MLXBackend

pytestmark = pytest.mark.long

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HANGS = "{% if 'hang' in messages[-1].content %}" + LOOP + "{% endif %}" + TEMPLATE


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncGenerator[MLXBackend]:
    write_tiny_model(tmp_path / "odd", template=HANGS)
    write_tiny_model(tmp_path / "fine")
    async with aclosing(MLXBackend(config_for(tmp_path))) as backend:
        yield backend


async def test_other_models_answer_while_a_template_hangs_and_its_own_does_afterwards(
    backend: MLXBackend,
) -> None:
    assert {model.name for model in await backend.list_models()} == {"odd", "fine"}
    await asyncio.gather(backend.load("odd"), backend.load("fine"))
    hanging = asyncio.create_task(answer(backend, chat("hang", "odd", max_tokens=2)))
    answers = 0
    while not hanging.done():
        events = await answer(backend, chat("Hi", "fine", max_tokens=2))
        assert isinstance(events[-1], Finished)
        answers += 1
    assert answers > 3
    with pytest.raises(TemplateLimitError, match="takes longer than 3 seconds") as caught:
        await hanging
    assert caught.value.lasting
    assert isinstance((await answer(backend, chat("Hi", "odd", max_tokens=2)))[-1], Finished)
