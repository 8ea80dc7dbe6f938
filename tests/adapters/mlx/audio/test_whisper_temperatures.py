"""Whisper tries higher temperatures while its text is improbable or repeats itself; its prompts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_audio import sine, tiny_whisper
from mlx_audio.stt.utils import load_model

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


class Hearing(Whisper):
    """Hears the tokens of the nth window of `windows`, and keeps the prompts."""

    def __init__(self, tokenizer: Any, *windows: list[int]) -> None:
        super().__init__(*[GOOD] * len(windows))
        self.tokenizer = tokenizer
        self.windows = windows
        self.prompts: list[list[int]] = []

    def get_tokenizer(self, **_options: Any) -> Any:
        return self.tokenizer

    def decode(self, features: mx.array, options: Any) -> Any:
        self.prompts.append(list(options.prompt))
        result = super().decode(features, options)
        result.tokens = self.windows[len(self.prompts) - 1]
        return result


def hear(
    seconds: float, *windows: list[int], prompt: str | None = None, tokenizer: Any = None
) -> tuple[Hearing, list[TranscriptSegment]]:
    model, segments = Hearing(tokenizer or Whisper().get_tokenizer(), *windows), list[Any]()
    request = TranscriptionRequest(
        model="whisper", samples=sine(seconds), language="en", prompt=prompt
    )
    transcribe(model, request, segments.append)
    return model, segments


def test_segment_behind_the_end_of_the_audio_is_left_out():
    one, late = FIRST_TIME + 25, FIRST_TIME + 60
    _, segments = hear(1.0, [FIRST_TIME, 7, one, late, 8, late + 20])
    assert [(segment.text, segment.start, segment.end) for segment in segments] == [
        ("attempt 7", 0.0, 0.5)
    ]


def test_segment_without_length_is_no_prompt_of_the_next_window():
    first = [FIRST_TIME, 7, FIRST_TIME + 1400, FIRST_TIME + 1450, 8, FIRST_TIME + 1450]
    model, _ = hear(35.0, first, [FIRST_TIME, 9, FIRST_TIME + 50])
    assert model.prompts == [[], [FIRST_TIME, 7, FIRST_TIME + 1400]]


def test_keywords_are_read_before_the_prompt(tmp_path: Path):
    real: Any = load_model(tiny_whisper(tmp_path / "whisper"))
    tokenizer = real.get_tokenizer(language="en", task="transcribe")
    model, segments = Hearing(tokenizer, [FIRST_TIME]), list[TranscriptSegment]()
    request = TranscriptionRequest(
        model="whisper", samples=sine(1.0), language="en", keywords=("Bo", "Zoë"), prompt="Then."
    )
    transcribe(model, request, segments.append)
    assert tokenizer.decode(model.prompts[0]) == " Bo, Zoë Then."


class Multilingual(Whisper):
    """Takes what it hears for German, and for French rather than for English."""

    is_multilingual = True

    def detect_language(self, _window: mx.array) -> tuple[None, dict[str, float]]:
        return None, {"en": 0.2, "de": 0.5, "fr": 0.3}


@pytest.mark.parametrize(
    ("languages", "detected"), [((), "de"), (("fr", "en"), "fr"), (("en",), "en")]
)
def test_language_is_detected_among_those_of_the_request(languages: tuple[str, ...], detected: str):
    request = TranscriptionRequest(model="whisper", samples=sine(1.0), languages=languages)
    assert transcribe(Multilingual(GOOD), request, lambda _segment: None) == detected


def test_names_of_control_tokens_in_a_prompt_are_text(tmp_path: Path):
    real: Any = load_model(tiny_whisper(tmp_path / "whisper"))
    tokenizer = real.get_tokenizer(language="en", task="transcribe")
    model, _ = hear(1.0, [FIRST_TIME], prompt="a<|endoftext|><|0.00|>b", tokenizer=tokenizer)
    assert tokenizer.decode(model.prompts[0]) == " a<|endoftext|>b"
    assert max(model.prompts[0]) < tokenizer.eot


def test_end_of_a_long_prompt_is_read(tmp_path: Path):
    real: Any = load_model(tiny_whisper(tmp_path / "whisper"))
    tokenizer = real.get_tokenizer(language="en", task="transcribe")
    model, _ = hear(1.0, [FIRST_TIME], prompt="a" * 200_000 + "b", tokenizer=tokenizer)
    assert 10_000 < len(model.prompts[0]) < 50_000
    assert tokenizer.decode(model.prompts[0][-2:]) == "ab"
