"""The spectrogram in pieces is that of mlx-audio, which computes it at once."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_audio.stt.models.whisper.audio import N_SAMPLES, log_mel_spectrogram

from adapters.mlx.audio.spectrogram import log_mel


@pytest.mark.parametrize("count", [1, 160, 16_001])
def test_spectrogram_is_that_of_the_library(count: int):
    samples = np.random.default_rng(count).normal(size=count).astype(np.float32)
    expected = log_mel_spectrogram(samples, n_mels=80, padding=N_SAMPLES)
    mel, frames = log_mel(samples, 80)
    assert mel.shape == expected.shape
    assert frames == count // 160
    assert mx.allclose(mel, expected, atol=1e-4)
