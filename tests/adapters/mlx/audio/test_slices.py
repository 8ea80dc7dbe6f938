"""A model's own loop, in time slices."""

from threading import Event
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn

from adapters.mlx.audio.slices import StoppedError, add_checkpoints, checkpoint, in_slices
from adapters.mlx.jobs import finish


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def __call__(self, x: mx.array) -> mx.array:
        # Large, so that a checkpoint follows it.
        return mx.broadcast_to(self.inner(x[:1, :4]), (50_000, 4)) + 1


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [Block() for _ in range(3)]

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.blocks:
            x = block(x)
        return x


def count(pieces: Any) -> int:
    return sum(1 for _ in pieces)


def test_each_layer_is_a_slice_and_the_result_is_the_same():
    model, x = Model(), mx.ones((50_000, 4))
    expected = model(x)
    add_checkpoints(model)
    assert count(in_slices(lambda: model(x), Event())) >= 3
    assert mx.array_equal(finish(in_slices(lambda: model(x), Event())), expected)


def test_model_works_as_before_when_it_is_not_in_slices():
    model, x = Model(), mx.ones((50_000, 4))
    expected = model(x)
    add_checkpoints(model)
    assert mx.array_equal(model(x), expected)
    assert isinstance(model.blocks[0], Block)


def test_traced_model_has_no_checkpoint():
    model, x = Model(), mx.ones((50_000, 4))
    expected = model(x)
    add_checkpoints(model)
    traced = mx.vmap(model)
    assert mx.allclose(finish(in_slices(lambda: traced(x[None]), Event()))[0], expected)


class Decoder(nn.Module):
    """Decodes with a compiled step, as Parakeet does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.step = mx.compile(self._step)

    def _step(self, x: mx.array) -> mx.array:
        return self.inner(x)

    def decode(self, x: mx.array) -> mx.array:
        for _ in range(5):
            x = self.step(x)
        return x


def test_each_call_of_a_compiled_step_is_a_slice():
    model, x = Decoder(), mx.ones((50_000, 4))
    expected = model.decode(x)
    add_checkpoints(model)
    assert count(in_slices(lambda: model.decode(x), Event())) == 5
    assert mx.array_equal(finish(in_slices(lambda: model.decode(x), Event())), expected)


def test_call_ends_at_its_next_checkpoint_when_it_is_stopped():
    stopped, done = Event(), list[str]()

    def work() -> None:
        try:
            for step in "abc":
                done.append(step)
                checkpoint()
        except Exception:
            done.append("caught")
        finally:
            done.append("cleaned up")

    pieces = in_slices(work, stopped)
    next(pieces)
    stopped.set()
    with pytest.raises(StoppedError):
        next(pieces)
    assert done == ["a", "cleaned up"]


def test_call_is_unwound_when_its_job_is_given_up():
    done = list[str]()

    def work() -> None:
        try:
            checkpoint()
        finally:
            done.append("cleaned up")

    pieces = in_slices(work, Event())
    next(pieces)
    pieces.close()
    assert done == ["cleaned up"]


def test_stream_of_a_call_is_its_own():
    own, before = mx.new_stream(mx.cpu), mx.default_stream(mx.cpu)
    seen = list[mx.Stream]()

    def work() -> None:
        with mx.stream(own):
            checkpoint()
            seen.append(mx.default_stream(mx.cpu))

    pieces = in_slices(work, Event())
    next(pieces)
    assert mx.default_stream(mx.cpu) == before
    finish(pieces)
    assert seen == [own]
    assert mx.default_stream(mx.cpu) == before


def test_error_of_a_call_is_raised():
    def work() -> None:
        checkpoint()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        finish(in_slices(work, Event()))
