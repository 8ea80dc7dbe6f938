"""Large layers of mlx-audio's models, divided for the engine: the same results, in short pieces."""

from threading import Event
from typing import Any

import mlx.core as mx
import pytest
from mlx_audio.stt.models.whisper.whisper import AudioEncoder

from adapters.mlx.audio.convolutions import convolve, convolve_transposed
from adapters.mlx.audio.encoder_attention import divide_attention
from adapters.mlx.audio.slices import in_slices


class Listener:
    def __init__(self) -> None:
        self.encoder = AudioEncoder(8, 600, 16, 2, 1, mx.float32)


def test_attention_of_an_encoder_is_the_same_in_blocks():
    model, spectrogram = Listener(), mx.random.normal((1, 1200, 8))
    expected = model.encoder(spectrogram)
    divide_attention(model)
    assert mx.allclose(model.encoder(spectrogram), expected, atol=1e-5)
    assert len(list(in_slices(lambda: model.encoder(spectrogram), Event()))) == 3


SMALL = 3000
"""Multiplications in a block, so that a few frames are several."""


@pytest.mark.parametrize(
    ("width", "options"),
    [
        (3, {"padding": 1}),
        (3, {"padding": 5, "dilation": 5}),
        (11, {"padding": 15, "dilation": 3}),
        (3, {"padding": 1, "stride": 2}),
        (3, {"padding": 1, "groups": 4}),
    ],
)
def test_convolution_is_the_same_in_blocks(width: int, options: Any):
    x = mx.random.normal((1, 47, 4))
    weight = mx.random.normal((8, width, 4 // options.get("groups", 1)))
    expected = mx.conv1d(x, weight, **options)
    assert mx.allclose(convolve(x, weight, **options, block=SMALL), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "options"),
    [
        (20, {"padding": 5, "stride": 10}),
        (12, {"padding": 3, "stride": 6}),
        (3, {"padding": 1, "stride": 2, "groups": 4}),
    ],
)
def test_transposed_convolution_is_the_same_in_blocks(width: int, options: Any):
    x = mx.random.normal((1, 17, 4))
    weight = mx.random.normal((8, width, 4 // options.get("groups", 1)))
    expected = mx.conv_transpose1d(x, weight, **options)
    divided = convolve_transposed(x, weight, **options, block=SMALL)
    assert mx.allclose(divided, expected, atol=1e-4)


def test_convolution_with_a_dilation_has_checkpoints():
    x, weight = mx.random.normal((1, 47, 4)), mx.random.normal((8, 3, 4))
    pieces = in_slices(lambda: convolve(x, weight, dilation=3, block=SMALL), Event())
    assert len(list(pieces)) > 1
