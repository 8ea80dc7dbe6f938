"""A draft model guesses; the text stays the model's own."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path

import mlx.core as mx
import pytest
from fakes.tiny_model import write_tiny_model
from mlx.utils import tree_map

from adapters.config import MLXConfig
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.scheduler import Scheduler
from adapters.mlx.engine.speculative import PlacedSampler, SpeculativeBatch
from adapters.mlx.jobs import finish
from adapters.mlx.models.load import LoadedModel, load_folder
from adapters.mlx.models.load_progress import Loading
from adapters.mlx.sequence import Sequence
from adapters.request import Sampling


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
async def backend(folder: Path) -> AsyncGenerator[MLXBackend]:
    backend = MLXBackend(
        MLXConfig(folders=(str(folder.parent),), huggingface_cache=False, embedded="never")
    )
    await backend.load("llama")
    yield backend
    await backend.aclose()


def add_draft(backend: MLXBackend, folder: Path, noise: float) -> None:
    """On the engine's thread: a lane whose draft is the model itself, more or less disturbed."""
    loaded: LoadedModel = backend._engine._lanes["llama"].loaded
    draft = finish(load_folder(folder, "never", Loading("draft"))).model
    mx.random.seed(3)
    draft.update(
        tree_map(lambda array: array + noise * mx.random.normal(array.shape), draft.parameters())
    )
    backend._engine._lanes["llama"] = Scheduler(
        dataclasses.replace(loaded, draft=draft), MLXConfig()
    )


async def tokens(backend: MLXBackend, sampling: Sampling, top: int | None = None) -> list[int]:
    prompt = [(3 + 7 * i) % 250 for i in range(30)]
    each = Sequence("llama", prompt, 40, sampling, top_logprobs=top)
    backend._engine.submit(each)
    found = [await each.next()]
    while found[-1].finish is None:
        found.append(await each.next())
    backend._engine.release(each, answered=True)
    return [sampled.token for sampled in found]


@pytest.mark.parametrize("noise", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1.0, seed=4),
        Sampling(temperature=1.5, seed=4, top_p=0.9),
        Sampling(frequency_penalty=1.0),
    ],
)
async def test_the_text_is_the_models_own_whatever_the_draft_guesses(
    backend: MLXBackend, folder: Path, noise: float, sampling: Sampling
) -> None:
    expected = await tokens(backend, sampling)
    await asyncio.wrap_future(backend._engine.run(lambda: add_draft(backend, folder, noise)))
    assert isinstance(backend._engine._lanes["llama"]._decoding, SpeculativeBatch)
    assert await tokens(backend, sampling) == expected
    assert await tokens(backend, sampling, top=1) == expected


async def test_right_guesses_save_steps_of_the_model(
    backend: MLXBackend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.wrap_future(backend._engine.run(lambda: add_draft(backend, folder, 0.0)))
    checks: list[int] = []
    fine = PlacedSampler.__call__

    def noted(sampler: PlacedSampler, logprobs: mx.array) -> mx.array:
        if logprobs.shape[0] > 1:
            checks.append(logprobs.shape[0])
        return fine(sampler, logprobs)

    monkeypatch.setattr(PlacedSampler, "__call__", noted)
    assert len(await tokens(backend, Sampling(temperature=1.0, seed=4))) == 40
    assert len(checks) == 10


async def test_who_leaves_frees_the_row_for_the_next(backend: MLXBackend, folder: Path) -> None:
    expected = await tokens(backend, Sampling())
    await asyncio.wrap_future(backend._engine.run(lambda: add_draft(backend, folder, 0.05)))
    leaving = Sequence("llama", [5, 6, 7], 400, Sampling())
    backend._engine.submit(leaving)
    await leaving.next()
    backend._engine.release(leaving, answered=False)
    assert await tokens(backend, Sampling()) == expected
    assert backend._engine.counters()["rows"] == 0
