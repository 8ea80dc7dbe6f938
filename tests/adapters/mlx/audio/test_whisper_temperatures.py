"""Whisper tries higher temperatures while its text is improbable or repeats itself."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_audio import sine

from adapters.audio import TranscriptionRequest, TranscriptSegment
from adapters.mlx.audio.whisper import transcribe

GOOD, IMPROBABLE, WORSE = (-0.5, 1.0), (-1.1, 1.0), (-3.0, 1.0)
REPEATED = (-0.1, 9.0)
"""Average log probability, and how far the text can be compressed."""
FIRST_TIME = 100


class Whisper:
    """Answers the nth attempt with the token n, as probable as `attempts` say."""

    dims = SimpleNamespace(n_mels=80, n_audio_ctx=1500)
    dtype = mx.float32

    def __init__(self, *attempts: tuple[float, float]) -> None:
        self.attempts = attempts
        self.temperatures: list[float] = []

    def encoder(self, mel: mx.array) -> mx.array:
        return mel

    def get_tokenizer(self, **_options: Any) -> Any:
        return SimpleNamespace(
            timestamp_begin=FIRST_TIME, eot=50, decode=lambda tokens: f"attempt {tokens[0]}"
        )

    def decode(self, _features: mx.array, options: Any) -> Any:
        attempt = len(self.temperatures)
        self.temperatures.append(options.temperature)
        logprob, compression = self.attempts[attempt]
        return SimpleNamespace(
            tokens=[FIRST_TIME, attempt, FIRST_TIME + 50],
            avg_logprob=logprob,
            compression_ratio=compression,
            no_speech_prob=0.0,
            temperature=options.temperature,
        )


@pytest.mark.parametrize(
    ("attempts", "chosen", "temperature"),
    [
        ((GOOD,), 0, 0.0),
        ((REPEATED, IMPROBABLE, GOOD), 2, 0.4),
        ((IMPROBABLE, WORSE, WORSE, WORSE, WORSE, WORSE), 0, 0.0),
        ((REPEATED, WORSE, IMPROBABLE, WORSE, WORSE, WORSE), 2, 0.4),
    ],
    ids=["at once", "third", "the first was the best", "the best that does not repeat itself"],
)
def test_text_is_the_first_good_one_or_the_best(
    attempts: tuple[tuple[float, float], ...], chosen: int, temperature: float
):
    model, segments = Whisper(*attempts), list[TranscriptSegment]()
    request = TranscriptionRequest(model="whisper", samples=sine(1.0), language="en")
    transcribe(model, request, segments.append)
    assert [segment.text for segment in segments] == [f"attempt {chosen}"]
    assert segments[0].temperature == pytest.approx(temperature)
    assert len(model.temperatures) == len(attempts)
