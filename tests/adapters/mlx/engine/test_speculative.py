"""A draft model guesses; the text stays the model's own."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import EngineClient, ForwardPasses, rows
from fakes.tiny_model import write_tiny_model
from mlx_lm.models import llama

from adapters.config import MLXConfig
from adapters.mlx.engine.engine import Engine
from adapters.mlx.sequence import Sequence
from adapters.request import Sampling

NOISES = (0.0, 0.05, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`alone`, the same model as `guessed`, and drafts: the model more or less disturbed."""
    root = tmp_path_factory.mktemp("models")
    for name in ("alone", "guessed"):
        write_tiny_model(root / name)
    for noise in NOISES:
        draft = Path(shutil.copytree(root / "alone", root / f"draft-{noise}"))
        weights: Any = mx.load(str(draft / "model.safetensors"))
        mx.random.seed(3)
        noisy = {name: w + noise * mx.random.normal(w.shape) for name, w in weights.items()}
        mx.save_safetensors(str(draft / "model.safetensors"), noisy)
    return root


@pytest.fixture
async def client(folder: Path) -> AsyncGenerator[EngineClient]:
    client = EngineClient(Engine(MLXConfig()))
    await client.load(folder / "alone")
    yield client
    await asyncio.to_thread(client.engine.close)


async def tokens(
    client: EngineClient, model: str, sampling: Sampling, top: int | None = None
) -> list[int]:
    prompt = [(3 + 7 * i) % 250 for i in range(30)]
    [answer] = await client.answer(Sequence(model, prompt, 40, sampling, top_logprobs=top))
    return answer


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1.0, seed=4),
        Sampling(temperature=1.5, seed=4, top_p=0.9),
        Sampling(frequency_penalty=1.0),
    ],
)
@pytest.mark.slow
async def test_the_text_is_the_models_own_whatever_the_draft_guesses(
    client: EngineClient,
    folder: Path,
    noise: float,
    sampling: Sampling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = await tokens(client, "alone", sampling)
    assert len(expected) == 40
    await client.load(folder / "guessed", draft=folder / f"draft-{noise}")
    passes = ForwardPasses(monkeypatch, llama.Model)
    assert await tokens(client, "guessed", sampling) == expected
    # Several guesses are checked in one pass, unless penalties need each token before the next.
    assert ((1, 4) in passes.shapes) is (sampling.frequency_penalty is None)
    assert await tokens(client, "guessed", sampling, top=1) == expected


@pytest.mark.slow
async def test_right_guesses_save_steps_of_the_model(
    client: EngineClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.load(folder / "guessed", draft=folder / "draft-0.0")
    passes = ForwardPasses(monkeypatch, llama.Model)
    answer = await tokens(client, "guessed", Sampling(temperature=1.0, seed=4))
    assert len(answer) == 40
    assert passes.shapes.count((1, 4)) == 10


@pytest.mark.slow
async def test_a_cancelled_answer_frees_the_row_for_the_next(
    client: EngineClient, folder: Path
) -> None:
    expected = await tokens(client, "alone", Sampling())
    await client.load(folder / "guessed", draft=folder / "draft-0.05")
    leaving = Sequence("guessed", [5, 6, 7], 400, Sampling())
    client.submit(leaving)
    assert await client.next(leaving) is None
    await client.next(leaving)
    client.release(leaving)
    assert await tokens(client, "guessed", Sampling()) == expected
    assert await rows(client.engine) == 0
