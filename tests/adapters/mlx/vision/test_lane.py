"""Images beside other work of the engine: slices, cancellation, memory."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import HeldPass, Shape, rows
from fakes.tiny_model import config_for, write_tiny_model
from fakes.tiny_vision import write_tiny_vision
from fakes.vision_client import PHOTO, WIDE, answer, request, user
from fakes.waiting import until
from mlx_vlm.models.qwen2_5_vl import vision

from adapters import sink
from adapters.errors import InsufficientMemoryError
from adapters.events import Started, TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.vision.encoder import LayerTape

pytestmark = pytest.mark.slow
MODEL = "qwen2_5_vl"
LAYERS = 3
PLENTY = 1500
"""Tokens of an answer that is still being written when a test ends."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lane")
    write_tiny_vision(root / MODEL, MODEL)
    # No token of the vocabulary ends its answers.
    write_tiny_model(root / "text", context=4096, eos_token_id=999)
    return root


@pytest.fixture
def engine(folder: Path) -> Engine:
    return Engine(config_for(folder))


@pytest.fixture
async def backend(folder: Path, engine: Engine) -> AsyncGenerator[MLXBackend]:
    async with aclosing(MLXBackend(config_for(folder), engine=engine)) as backend:
        await backend.load(MODEL)
        await backend.load("text")
        yield backend


class _Passes:
    """Calls of the encoder's layers, each of which `before` may hold."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.before = HeldPass(lambda _shape: False)
        block: Any = vision.Qwen2VLVisionBlock
        forward = block.__call__

        def recorded(layer: Any, states: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            shape: Shape = (states.shape[0], states.shape[1])
            self.before(shape)
            self.count += 1
            return forward(layer, states, *args, **kwargs)

        patch.setattr(block, "__call__", recorded)


@pytest.mark.long
async def test_text_stream_goes_on_between_the_layers_of_an_encoder(
    backend: MLXBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another model and, in the batch of the same model, another row stream meanwhile."""
    for model in ("text", MODEL):
        times: list[float] = []
        stream = sink.events(backend, request(model, user("Write on."), tokens=PLENTY))
        async with aclosing(stream):
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
            seeing = asyncio.ensure_future(
                answer(backend, request(MODEL, user("What is", PHOTO, WIDE, PHOTO, "?")))
            )
            async for event in stream:
                if isinstance(event, TextDelta):
                    times.append(time.perf_counter())
                if seeing.done():
                    break
            await seeing
        longest = max(b - a for a, b in pairwise(times))
        with capsys.disabled():
            print(f"\nlongest gap of a stream of {model!r} beside an image: {longest * 1e3:.1f} ms")
        # A step for each layer, for reading the prompt, and for each token of the answer.
        assert len(times) >= LAYERS + 1 + 8


async def test_client_that_leaves_frees_the_engine_in_the_encoder(
    backend: MLXBackend, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = _Passes(monkeypatch)
    passes.before = held = HeldPass(lambda _shape: passes.count == 1)
    asked = asyncio.ensure_future(answer(backend, request(MODEL, user("What is", WIDE, "?"))))
    await held.reached()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    computed: list[Any] = []
    evaluate = mx.eval
    monkeypatch.setattr(mx, "eval", lambda *arrays: (computed.append(arrays), evaluate(*arrays)))
    held.go_on()
    assert await rows(engine) == 0
    assert engine.counters()["cancelled"] == 1
    assert computed == []  # No layer was computed, and no token of the prompt.


@pytest.mark.long
async def test_client_that_leaves_frees_the_engine_in_prefill(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_vlm.models.qwen2_5_vl.language import LanguageModel

    read: list[int] = []
    held = HeldPass(lambda shape: shape[1] > 1 and len(read) >= 2)
    forward: Any = LanguageModel.__call__

    def recorded(model: Any, inputs: mx.array, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("inputs_embeds") is not None:
            held((1, inputs.shape[1]))
            read.append(inputs.shape[1])
        return forward(model, inputs, *args, **kwargs)

    config = config_for(folder, prefill_chunk=8)
    engine = Engine(config)
    async with aclosing(MLXBackend(config, engine=engine)) as backend:
        await backend.load(MODEL)
        monkeypatch.setattr(LanguageModel, "__call__", recorded)
        stream = sink.events(backend, request(MODEL, user("What is", WIDE, "x" * 80)))
        assert isinstance(await anext(stream), Started)
        await held.reached()
        await stream.aclose()
        held.go_on()
        assert await rows(engine) == 0
        # The chunk that ran, and none after it.
        assert len(read) == 3
        assert set(read) <= {7, 8, 9}


async def test_image_that_fails_ends_its_own_request_only(
    backend: MLXBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await answer(backend, request(MODEL, user("Hello"), tokens=40))
    passes = _Passes(monkeypatch)

    def fail(_shape: Shape) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(passes, "before", fail)
    beside, failed = await asyncio.gather(
        answer(backend, request(MODEL, user("Hello"), tokens=40, client="b")),
        answer(backend, request(MODEL, user(PHOTO, "?"))),
        return_exceptions=True,
    )
    assert beside == expected
    assert str(failed) == "The engine failed while it read an image."
    assert backend.is_well(MODEL)


async def test_images_beyond_the_budget_are_refused(folder: Path) -> None:
    config = config_for(folder, kv_budget_bytes=60_000)
    async with aclosing(MLXBackend(config)) as backend:
        assert (await answer(backend, request(MODEL, user("Hello")))).data
        with pytest.raises(InsufficientMemoryError, match="send smaller images"):
            await answer(backend, request(MODEL, user(PHOTO, WIDE, "?")))


@pytest.mark.long
async def test_memory_of_rows_is_free_after_an_image(backend: MLXBackend, engine: Engine) -> None:
    before = engine.pool.taken
    await answer(backend, request(MODEL, user(PHOTO, "?")))
    await until(lambda: engine.pool.taken == before)
    await backend.unload(MODEL)
    assert engine.counters()["loaded_models"] == 1


def test_tape_computes_a_layer_for_each_piece() -> None:
    from mlx import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.language_model = nn.Linear(2, 2)
            self.tower = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))

    model = Model()
    tape = LayerTape(model)
    pieces = tape.run(lambda: model.tower(mx.ones((1, 2))), layers=True)
    assert len(list(pieces)) == 1 + 3
    assert len(list(tape.run(lambda: model.tower(mx.ones((1, 2))), layers=False))) == 1
