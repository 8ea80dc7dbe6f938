"""Models that read all of an audio at once get long ones in parts."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adapters.audio import TRANSCRIPTION_RATE, TranscriptionRequest, TranscriptSegment
from adapters.errors import UnsupportedParameterError
from adapters.mlx.audio.aligned import transcribe

RATE = TRANSCRIPTION_RATE


class Listener:
    """Hears one sentence in each audio, of its whole length."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    def parameters(self) -> dict[str, Any]:
        return {}

    def generate(self, audio: Any, **_options: Any) -> Any:
        self.heard.append(audio.shape[0] / RATE)
        return SimpleNamespace(text=f"Part {len(self.heard)}.")


class Eager(Listener):
    """Hears words for a second longer than the audio, as a model that rounds up to its frames."""

    def generate(self, audio: Any, **_options: Any) -> Any:
        end = audio.shape[0] / RATE + 1
        tokens = [SimpleNamespace(id=0, text=" On", start=0.0, end=end)]
        sentence = SimpleNamespace(text=" On", tokens=tokens, start=0.0, end=end)
        return SimpleNamespace(text="On", sentences=[sentence])


def request(seconds: float, quiet_at: float = 0.0, **fields: Any) -> TranscriptionRequest:
    """A loud noise with a pause of 0.2 s."""
    samples = np.random.default_rng(1).normal(size=round(seconds * RATE)).astype("<f4")
    samples[round((quiet_at - 0.1) * RATE) : round((quiet_at + 0.1) * RATE)] = 0
    return TranscriptionRequest(model="listener", samples=samples.tobytes(), **fields)


def test_long_audio_is_cut_where_it_is_quiet():
    listener, segments = Listener(), list[TranscriptSegment]()
    transcribe(listener, frozenset(), request(70, quiet_at=27), segments.append)
    assert listener.heard[0] == pytest.approx(27, abs=0.1)
    assert max(listener.heard) <= 30
    assert sum(listener.heard) == pytest.approx(70)
    assert [segment.text for segment in segments] == ["Part 1.", "Part 2.", "Part 3."]
    ends = [segment.end for segment in segments]
    assert [segment.start for segment in segments] == [0.0, *ends[:-1]]
    assert ends[-1] == pytest.approx(70)


def test_model_that_takes_long_audio_reports_each_part_of_two_minutes():
    listener, segments = Listener(), list[TranscriptSegment]()
    takes = frozenset({"chunk_duration", "overlap_duration"})
    transcribe(listener, takes, request(200, quiet_at=117), segments.append)
    assert listener.heard == pytest.approx([117, 83], abs=0.1)
    assert [segment.text for segment in segments] == ["Part 1.", "Part 2."]


def test_times_end_with_the_audio():
    segments = list[TranscriptSegment]()
    transcribe(Eager(), frozenset(), request(40, quiet_at=27, words=True), segments.append)
    assert [segment.end for segment in segments] == pytest.approx([27, 40], abs=0.1)
    assert [segment.words[-1].end for segment in segments] == [s.end for s in segments]


def test_model_without_times_of_words_refuses_them_at_its_first_part():
    listener = Listener()
    with pytest.raises(UnsupportedParameterError):
        transcribe(listener, frozenset(), request(70, words=True), lambda _segment: None)
    assert len(listener.heard) == 1
