"""Compute Whisper's spectrogram in pieces: that of ten minutes in one would stop every text stream.

Source: `log_mel_spectrogram` of mlx-audio, which computes all frames at once.
"""

# pyright: basic
from typing import Any

import mlx.core as mx
import numpy as np

from adapters.mlx.audio.slices import checkpoint

_FRAMES = 1000
"""Frames of 10 ms between two checkpoints."""
_DYNAMIC_RANGE = 8.0
"""Powers of ten below the loudest."""


def log_mel(samples: np.ndarray, n_mels: int) -> tuple[mx.array, int]:
    """Return the spectrogram, with 30 s of silence after it, and the number of its own frames."""
    from mlx_audio.stt.models.whisper import audio as whisper

    silence = np.zeros(whisper.N_SAMPLES, dtype=np.float32)
    padded = np.pad(np.concatenate([samples, silence]), whisper.N_FFT // 2, mode="reflect")
    frames = (len(padded) - whisper.N_FFT) // whisper.HOP_LENGTH
    window = whisper.hanning(whisper.N_FFT, periodic=True)
    filters = whisper.mel_filters(
        whisper.SAMPLE_RATE, whisper.N_FFT, n_mels, norm="slaney", mel_scale=None
    )
    pieces: list[Any] = []
    for first in range(0, frames, _FRAMES):
        last = min(first + _FRAMES, frames) - 1
        end = last * whisper.HOP_LENGTH + whisper.N_FFT
        part = mx.array(padded[first * whisper.HOP_LENGTH : end])
        spectrum = whisper.stft(
            part, window=window, n_fft=whisper.N_FFT, hop_length=whisper.HOP_LENGTH, center=False
        )
        mel = mx.maximum(spectrum.abs().square() @ filters.T, 1e-10).log10()
        mx.eval(mel)
        pieces.append(mel)
        checkpoint()
    whole = mx.concatenate(pieces)
    whole = (mx.maximum(whole, whole.max() - _DYNAMIC_RANGE) + 4.0) / 4.0
    return whole, frames - whisper.N_FRAMES
