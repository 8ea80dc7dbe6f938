"""Patches by SmolLM2 on both engines, through the server: each parses by Codex's own grammar.

The model is too small to edit files. What it writes is a patch because nothing else can be drawn.
Some answers repeat a line for ever: they are cut, and others are written in their place.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import openai
import pytest
from fakes.scripted_backend import openai_client
from servers.ollama_server import PLAIN, require_model

from adapters.config import MLXConfig, OllamaConfig
from adapters.mlx.backend import MLXBackend
from adapters.ollama.backend import OllamaBackend

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(3600)]

AT_ONCE = 16
MOST_TOKENS = 120
"""Limit of a patch: complete ones have 20 to 50."""
GRAMMAR = (Path(__file__).parents[1] / "data" / "codex" / "apply_patch.lark").read_text()
"""The grammar that codex 0.171.0 sends."""
EXAMPLE = (
    "You edit files with the tool apply_patch. A whole patch:\n*** Begin Patch\n"
    "*** Update File: notes/hello.txt\n@@\n-hello\n+Hello, world!\n*** End Patch\n"
    "Patches are as short as this one."
)
FILES = ("a.txt", "src/main.py", "docs/readme.md", "lib/über.js", "Makefile", "x y.txt")
LINES = ("hello", "print(1)", "# Title", "import os", 'say "hi"', "x = 2", "<b>", "a: 1", "Füße")

LINE = r"[^\n]+\n"
ADD = rf"\*\*\* Add File: {LINE}(?:\+[^\n]*\n)+"
DELETE = rf"\*\*\* Delete File: {LINE}"
CHANGE = rf"(?:@@\n|@@ {LINE}|[-+ ][^\n]*\n)+(?:\*\*\* End of File\n)?"
UPDATE = rf"\*\*\* Update File: {LINE}(?:\*\*\* Move to: {LINE})?(?:{CHANGE})?"
PATCH = re.compile(rf"\*\*\* Begin Patch\n(?:{ADD}|{DELETE}|{UPDATE})+\*\*\* End Patch\n?")
"""The grammar again, as an expression of another engine: its language is regular."""


@pytest.fixture
async def on_mlx() -> AsyncIterator[openai.AsyncOpenAI]:
    config = MLXConfig(embedded="always", huggingface_cache=False, max_concurrent=AT_ONCE)
    async with aclosing(MLXBackend(config)) as backend, openai_client(backend) as client:
        yield client.with_options(timeout=3600)


@pytest.fixture
async def on_ollama(ollama_host: str) -> AsyncIterator[openai.AsyncOpenAI]:
    config = OllamaConfig(host=ollama_host)
    async with aclosing(OllamaBackend(config)) as backend, openai_client(backend) as client:
        yield client.with_options(timeout=3600)


async def patch(client: openai.AsyncOpenAI, model: str, seed: int) -> str | None:
    """Return what the model wrote; `None` for an answer that was cut."""
    file, line = FILES[seed % len(FILES)], LINES[seed % len(LINES)]
    other = LINES[(seed * 7 + 3) % len(LINES)]
    answer = await client.responses.create(
        model=model,
        instructions=EXAMPLE,
        input=f"The file {file} has the line {line}. Change it to {other}.",
        tools=[
            {
                "type": "custom",
                "name": "apply_patch",
                "description": "Edits files.",
                "format": {"type": "grammar", "syntax": "lark", "definition": GRAMMAR},
            }
        ],
        tool_choice={"type": "custom", "name": "apply_patch"},
        parallel_tool_calls=False,
        temperature=0.5,
        extra_body={"seed": seed},
        max_output_tokens=MOST_TOKENS,
        store=False,
    )
    if answer.status != "completed":
        return None
    (call,) = answer.output
    assert call.type == "custom_tool_call"
    return call.input


async def demand_patches(client: openai.AsyncOpenAI, model: str, count: int) -> int:
    """Have `count` complete patches written, and return how many answers that took."""
    patches: list[str] = []
    seeds = itertools.count()

    async def work() -> None:
        while len(patches) < count:
            seed = next(seeds)
            text = await patch(client, model, seed)
            print(f"--- {seed}\n{text}", flush=True)
            if text is not None:
                patches.append(text)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    answers = next(seeds)
    print(f"{len(patches)} of {answers} answers are complete")
    assert [text for text in patches if PATCH.fullmatch(text) is None] == []
    assert len(set(patches)) > count // 10
    return answers


async def test_every_patch_parses_by_the_grammar_of_codex(on_mlx: openai.AsyncOpenAI):
    answers = await demand_patches(on_mlx, "SmolLM2-135M-Instruct", 100)
    assert answers < 200


async def test_every_patch_on_ollama_parses_by_the_grammar_of_codex(
    on_ollama: openai.AsyncOpenAI, ollama_host: str
):
    """Fewer: two answers in three repeat a line there."""
    await demand_patches(on_ollama, require_model(ollama_host, PLAIN), 30)
