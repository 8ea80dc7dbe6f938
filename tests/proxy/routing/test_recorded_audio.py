"""Records of answers of audio."""

from typing import Any

from adapters.audio import SpeechAudio, SpeechFinished, SpeechStarted
from proxy.record import Attempt
from proxy.routing.audio import RecordedAudio


class Ignoring:
    def write(self, event: Any, /) -> bool:
        return False

    async def drain(self) -> None:
        """Nothing waits."""


def test_speed_of_tokens_is_not_measured():
    """They come in pieces: the time from the first one to the end says nothing of a token's."""
    attempt = Attempt("mlx", "speaker")
    sink = RecordedAudio(Ignoring(), attempt)
    sink.write(SpeechStarted(rate=24_000))
    sink.write(SpeechAudio(bytes(4)))
    sink.write(SpeechFinished(input_tokens=5, output_tokens=70, seconds=1.0))
    assert attempt.completion_tokens == 70
    assert attempt.first_at is not None
    assert attempt.tokens_per_second is None
