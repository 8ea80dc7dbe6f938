"""Large layers of mlx-audio's models, divided for the engine: the same results, in short pieces."""

from threading import Event

import mlx.core as mx
from mlx_audio.stt.models.whisper.whisper import AudioEncoder

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
