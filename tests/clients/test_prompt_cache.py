"""Shares of agents' prompts that MLX finds in its prefix cache: all of a session but what is new.

The model is tiny and random, with SmolLM2's tokenizer and a window of 64k tokens, which these
prompts need. MLX reads every prompt; what it generates is replaced by the calls of a script, so
that the turns of the model are read anew, and real sessions have larger shares.
"""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from clients.agents import claude_path, codex_path, run_claude, run_codex
from clients.calling_backend import CallingBackend
from fakes.tiny_model import config_for, write_tiny_model
from msgspec.structs import replace

from adapters.mlx.backend import MLXBackend
from adapters.mlx.models import bundled
from adapters.request import GenerationRequest
from adapters.sink import Sink
from proxy.sinks import Collector

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

MODEL = "claude-random"
VOCABULARY = 49_152
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Answer with <tool_call></tool_call>.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ReadingBackend(CallingBackend):
    """MLX reads each prompt, and the script answers."""

    def __init__(self, mlx: MLXBackend, *calls: tuple[str, dict[str, Any]]) -> None:
        super().__init__(MODEL, *calls)
        self._mlx = mlx
        self.read: list[tuple[int, int]] = []
        """Tokens of each prompt, and those of them that were cached."""

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        collector = Collector()
        # The router takes wishes away that a model lacks; this one seems to have all.
        asked = replace(request, model=MODEL, max_tokens=1, reasoning_effort=None)
        await self._mlx.generate(asked, collector)
        usage = collector.answers()[0].finished.usage
        self.read.append((usage.prompt_tokens, usage.cached_tokens or 0))
        await super().generate(request, sink)


@pytest.fixture
async def mlx(tmp_path: Path) -> AsyncIterator[MLXBackend]:
    folder = tmp_path / "models" / MODEL
    write_tiny_model(folder, context=65_536, vocab_size=VOCABULARY)
    source = await bundled.ensure_converted(bundled.cache_folder(None))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": TEMPLATE})
    )
    async with aclosing(MLXBackend(config_for(folder.parent))) as backend:
        yield backend


async def test_second_request_of_codex_is_cached(mlx: MLXBackend, tmp_path: Path):
    codex_path()
    backend = ReadingBackend(mlx, ("exec_command", {"cmd": "echo Hello"}))
    await run_codex(backend, tmp_path)
    _check(backend)


async def test_second_request_of_claude_is_cached(mlx: MLXBackend, tmp_path: Path):
    claude_path()
    (tmp_path / "a.txt").write_text("Hello world\n")
    backend = ReadingBackend(mlx, ("Read", {"file_path": str(tmp_path / "a.txt")}))
    await run_claude(backend, tmp_path)
    _check(backend)


def _check(backend: ReadingBackend) -> None:
    print(backend.read)
    (first, _), (second, cached) = backend.read[-2:]
    assert second > first > 1000
    assert cached >= 0.95 * second
