"""Whisper, window by window: segments are reported as soon as their window is decoded.

mlx-audio's `generate` returns everything at its end. This is the loop of OpenAI's `transcribe.py`
over mlx-audio's decoder, without the options that no request has.
"""

# pyright: basic
import math
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from adapters.audio import TranscriptionRequest, TranscriptLogprob, TranscriptSegment, Word
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.audio.slices import checkpoint
from adapters.mlx.audio.spectrogram import log_mel
from adapters.mlx.output.detokenize import byte_level

_RISING = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Temperatures that are tried while the text repeats itself or is improbable."""
_MAX_COMPRESSION = 2.4
_MIN_LOGPROB = -1.0
_MAX_NO_SPEECH = 0.6
_MAX_PROMPT = 30_000
"""Characters of a prompt that are read: its last 223 tokens count, of 128 characters at most."""
_MAX_TEMPERATURE_OF_PROMPT = 0.5
"""Text of a higher temperature is no prompt for the next window: its errors would spread."""
_WINDOW = 3000
"""Frames of 30 s."""
_FRAMES_A_SECOND = 100
# Whisper's own.
_BEFORE_WORDS, _AFTER_WORDS = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


def check_language(model: Any, request: TranscriptionRequest) -> None:
    """Refuse what this Whisper cannot do.

    Raises:
        InvalidRequestError: it does not know the language.
        UnsupportedParameterError: it was trained on English alone, and has nothing to translate.
    """
    from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES

    if not model.is_multilingual:
        if request.task == "translate":
            raise UnsupportedParameterError(
                f"'{request.model}' knows English only: it does not translate.", param="model"
            )
        if request.language not in (None, "en"):
            raise InvalidRequestError(
                f"'{request.model}' knows English only, not '{request.language}'.",
                param="language",
            )
        if request.languages and "en" not in request.languages:
            raise InvalidRequestError(f"'{request.model}' knows English only.", param="languages")
        return
    known = list(LANGUAGES)[: model.num_languages]
    named = [("languages", code) for code in request.languages]
    for param, code in [("language", request.language), *named]:
        if code not in (None, *known):
            raise InvalidRequestError(
                f"'{code}' is no language of '{request.model}'; send an ISO 639-1 code, such as "
                "'en'.",
                param=param,
            )


def transcribe(
    model: Any, request: TranscriptionRequest, report: Callable[[TranscriptSegment], None]
) -> str:
    """Report all segments; returns the code of the language. Runs `in_slices`."""
    samples = np.frombuffer(request.samples, dtype="<f4")
    mel, frames = log_mel(samples, model.dims.n_mels)
    language = request.language or _detect(model, mel, request.languages)
    tokenizer = model.get_tokenizer(language=language, task=request.task)
    words = ", ".join(request.keywords)
    text = " ".join(filter(None, (words, request.prompt)))
    prompt = _to_prompt(tokenizer, text) if text else []
    spoken_until = 0.0
    seek = 0
    while seek < frames:
        size = min(_WINDOW, frames - seek)
        window = _Window(model, tokenizer, mel[seek : seek + size], seek, size)
        result = window.decode(request, language, prompt)
        checkpoint()
        if _is_silent(result):
            seek += size
            continue
        segments, ahead = window.divide(result)
        if request.words:
            ahead = window.align(segments, spoken_until, ahead)
        seek = ahead if ahead > seek else seek + size
        for segment in segments:
            if not window.has_heard(segment):
                continue
            spoken_until = segment["end"]
            prompt += segment["tokens"]
            report(window.to_segment(segment, result, with_logprobs=request.logprobs))
        if result.temperature > _MAX_TEMPERATURE_OF_PROMPT:
            prompt = []
        mx.clear_cache()
    return language


def _detect(model: Any, mel: mx.array, languages: tuple[str, ...]) -> str:
    """Return the code of the spoken language, the likeliest of `languages` if there are any."""
    from mlx_audio.stt.models.whisper.audio import pad_or_trim

    if not model.is_multilingual:
        return "en"
    window = pad_or_trim(mel, _WINDOW, axis=-2).astype(model.dtype)
    _, likely = model.detect_language(window)
    return max(languages or likely, key=lambda code: likely[code])


def _to_prompt(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a user's prompt, in which names of control tokens are text.

    Those of times, which are no control tokens to the tokenizer, are left out.
    """
    text = f" {text.strip()}"[-_MAX_PROMPT:]
    tokens = tokenizer.hf_tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=True
    )
    return [token for token in tokens if token < tokenizer.timestamp_begin]


def _is_silent(result: Any) -> bool:
    return result.no_speech_prob > _MAX_NO_SPEECH and not result.avg_logprob > _MIN_LOGPROB


class _Window:
    """30 seconds of audio, or the rest of it."""

    def __init__(self, model: Any, tokenizer: Any, mel: mx.array, seek: int, size: int) -> None:
        from mlx_audio.stt.models.whisper.audio import pad_or_trim

        self._model = model
        self._tokenizer = tokenizer
        self._mel = pad_or_trim(mel, _WINDOW, axis=-2).astype(model.dtype)
        self._seek = seek
        self._size = size
        self._frames_a_token = _WINDOW // model.dims.n_audio_ctx
        self._single_end = False
        """The text ends with one time: nothing is said after it in this window."""

    def decode(self, request: TranscriptionRequest, language: str, prompt: list[int]) -> Any:
        """Return the first text that is good enough, or else the best."""
        from mlx_audio.stt.models.whisper.decoding import DecodingOptions

        # The encoder's output is the same for every temperature.
        features = self._model.encoder(self._mel[None])[0]
        results: list[Any] = []
        for temperature in (request.temperature,) if request.temperature else _RISING:
            options = DecodingOptions(
                task=request.task,
                language=language,
                temperature=temperature,
                prompt=prompt,
                fp16=self._model.dtype == mx.float16,
            )
            results.append(self._model.decode(features, options))
            if not _has_failed(results[-1]):
                return results[-1]
        return max(results, key=_quality)

    def divide(self, result: Any) -> tuple[list[dict[str, Any]], int]:
        """Divide the tokens at their times; returns the segments and where the next window begins,
        which is the beginning of an unfinished segment."""
        begin, tokens = self._tokenizer.timestamp_begin, list(result.tokens)
        is_time = [token >= begin for token in tokens]
        cuts = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
        self._single_end = is_time[-2:] == [False, True]
        if not cuts:
            times = [token for token in tokens if token > begin]
            end = self._time(times[-1]) if times else self._at(self._size)
            return [self._segment(tokens, self._at(0), end)], self._seek + self._size
        ends = [*cuts, len(tokens)] if self._single_end else cuts
        pieces = [tokens[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        segments = [self._segment(p, self._time(p[0]), self._time(p[-1])) for p in pieces]
        if self._single_end:
            return segments, self._seek + self._size
        return segments, self._seek + (pieces[-1][-1] - begin) * self._frames_a_token

    def align(self, segments: list[dict[str, Any]], spoken_until: float, seek: int) -> int:
        """Add the times of words; returns where the next window begins: after the last word."""
        from mlx_audio.stt.models.whisper.timing import add_word_timestamps

        add_word_timestamps(
            segments=segments,
            model=self._model,
            tokenizer=self._tokenizer,
            mel=self._mel,
            num_frames=self._size,
            prepend_punctuations=_BEFORE_WORDS,
            append_punctuations=_AFTER_WORDS,
            last_speech_timestamp=spoken_until,
        )
        ends = [word["end"] for segment in segments for word in segment["words"]]
        if not self._single_end and ends and ends[-1] > self._at(0):
            return round(ends[-1] * _FRAMES_A_SECOND)
        return seek

    def has_heard(self, segment: dict[str, Any]) -> bool:
        """False for a segment without words or length, and for one of the silence after the end of
        the audio, to which a window is filled up."""
        is_inside = segment["start"] < self._at(self._size)
        return is_inside and segment["start"] != segment["end"] and bool(segment["text"].strip())

    def to_segment(
        self, segment: dict[str, Any], result: Any, *, with_logprobs: bool
    ) -> TranscriptSegment:
        logprobs = tuple(self._logprobs(segment["tokens"], result)) if with_logprobs else ()
        return TranscriptSegment(
            text=segment["text"],
            start=self._inside(segment["start"]),
            end=max(self._inside(segment["start"]), self._inside(segment["end"])),
            seek=self._seek,
            tokens=tuple(segment["tokens"]),
            temperature=float(result.temperature),
            avg_logprob=_finite(result.avg_logprob),
            compression_ratio=float(result.compression_ratio),
            no_speech_prob=_finite(result.no_speech_prob),
            words=tuple(
                Word(
                    word["word"].strip(),
                    self._inside(float(word["start"])),
                    self._inside(float(word["end"])),
                )
                for word in segment.get("words", ())
                if word["word"].strip()
            ),
            logprobs=logprobs,
        )

    def _logprobs(self, tokens: list[int], result: Any) -> Iterator[TranscriptLogprob]:
        """Compute the log probabilities of `tokens` in one pass: decoding keeps only their sum."""
        texts = [token for token in tokens if token < self._tokenizer.eot]
        start = list(self._tokenizer.sot_sequence_including_notimestamps)
        inputs = mx.array([[*start, *texts[:-1]]])
        logits = self._model.logits(inputs, result.audio_features[None])[0, len(start) - 1 :]
        chosen = mx.take_along_axis(
            logits.astype(mx.float32) - mx.logsumexp(logits.astype(mx.float32), -1, keepdims=True),
            mx.array(texts)[:, None],
            axis=-1,
        )
        logprobs: Any = chosen[:, 0].tolist()
        pieces = self._tokenizer.hf_tokenizer.convert_ids_to_tokens(texts)
        for piece, logprob in zip(pieces, logprobs, strict=True):
            own = byte_level(piece)
            yield TranscriptLogprob(own.decode("utf-8", "replace"), logprob, list(own))

    def _segment(self, tokens: list[int], start: float, end: float) -> dict[str, Any]:
        texts = [token for token in tokens if token < self._tokenizer.eot]
        return {
            "start": start,
            "end": end,
            "tokens": tokens,
            "text": self._tokenizer.decode(texts),
            "words": [],
            "seek": self._seek,
        }

    def _inside(self, seconds: float) -> float:
        """A time of this window; a model may hear beyond the end of the audio."""
        return round(min(max(seconds, self._at(0)), self._at(self._size)), 2)

    def _time(self, token: int) -> float:
        return self._at((token - self._tokenizer.timestamp_begin) * self._frames_a_token)

    def _at(self, frame: int) -> float:
        return (self._seek + frame) / _FRAMES_A_SECOND


def _has_failed(result: Any) -> bool:
    if _is_silent(result):
        return False
    return result.compression_ratio > _MAX_COMPRESSION or result.avg_logprob < _MIN_LOGPROB


def _quality(result: Any) -> tuple[bool, float]:
    """Rank texts that have all failed, as faster-whisper does: that of the last temperature, which
    OpenAI's code takes, is the most random one."""
    return result.compression_ratio <= _MAX_COMPRESSION, result.avg_logprob


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0
