"""Transcription by Parakeet and mlx-audio's other models, which return all at once.

Most of them attend to all that they get: long audio is cut for them, so that an hour needs no more
memory than a part of it, and each part is reported as soon as it is read.
"""

# pyright: basic
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from msgspec.structs import replace

from adapters.audio import TRANSCRIPTION_RATE, TranscriptionRequest, TranscriptSegment, Word
from adapters.errors import UnsupportedParameterError
from adapters.mlx.audio.slices import checkpoint

_PART_SECONDS, _LONG_PART_SECONDS, _SEARCH_SECONDS = 30.0, 120.0, 5.0
"""Length of the parts, that for models of mlx-audio that take longer audio (`chunk_duration`), and
of the end of a part in which it may be cut."""
_QUIET_SAMPLES = TRANSCRIPTION_RATE // 10


def transcribe(
    model: Any,
    takes: frozenset[str],
    request: TranscriptionRequest,
    report: Callable[[TranscriptSegment], None],
) -> str | None:
    """Report all segments; returns the code of the language, if it is known. Runs `in_slices`.

    Raises:
        UnsupportedParameterError: the model reports no times of words.
    """
    options: dict[str, Any] = {"language": request.language, "dtype": _float_type(model)}
    options = {k: v for k, v in options.items() if v is not None and k in takes}
    samples = np.frombuffer(request.samples, dtype="<f4")
    language = request.language
    longest = _LONG_PART_SECONDS if "chunk_duration" in takes else _PART_SECONDS
    for start, part in _parts(samples, longest):
        seconds = len(part) / TRANSCRIPTION_RATE
        result = model.generate(mx.array(part), **options)
        segments = [_within(segment, seconds) for segment in _segments(result, seconds)]
        if request.words and not all(segment.words for segment in segments):
            raise UnsupportedParameterError(
                f"'{request.model}' reports no times of words; Whisper and Parakeet do.",
                param="timestamp_granularities",
            )
        for segment in segments:
            report(_shifted(segment, start / TRANSCRIPTION_RATE))
        if isinstance(heard := getattr(result, "language", None), str):
            language = heard
        checkpoint()
    return language


def _parts(samples: np.ndarray, longest: float) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the parts of long audio with their first sample. Each ends where it is quietest."""
    part, search = (round(s * TRANSCRIPTION_RATE) for s in (longest, _SEARCH_SECONDS))
    start = 0
    while len(samples) - start > part:
        end = samples[start + part - search : start + part].reshape(-1, _QUIET_SAMPLES)
        quietest = int(np.argmin(np.square(end).sum(axis=1)))
        cut = start + part - search + quietest * _QUIET_SAMPLES + _QUIET_SAMPLES // 2
        yield start, samples[start:cut]
        start = cut
    yield start, samples[start:]


def _within(segment: TranscriptSegment, seconds: float) -> TranscriptSegment:
    """Limit the times to the length of the audio: a model rounds the last token's up to a frame."""
    last = round(seconds, 2)
    words = (Word(w.word, min(w.start, last), min(w.end, last)) for w in segment.words)
    start, end = min(segment.start, last), min(segment.end, last)
    return replace(segment, start=start, end=end, words=tuple(words))


def _shifted(segment: TranscriptSegment, seconds: float) -> TranscriptSegment:
    """Return a segment of a part with the times of the whole."""
    words = (
        Word(w.word, round(w.start + seconds, 2), round(w.end + seconds, 2)) for w in segment.words
    )
    start, end = round(segment.start + seconds, 2), round(segment.end + seconds, 2)
    return replace(segment, start=start, end=end, words=tuple(words))


def _float_type(model: Any) -> mx.Dtype:
    parameters: Any = tree_flatten(model.parameters())
    types = [array.dtype for _, array in parameters]
    return next((kind for kind in types if mx.issubdtype(kind, mx.floating)), mx.float32)


def _segments(result: Any, seconds: float) -> Iterator[TranscriptSegment]:
    if hasattr(result, "sentences"):
        for sentence in result.sentences:
            tokens = sentence.tokens
            yield TranscriptSegment(
                text=sentence.text,
                start=round(float(sentence.start), 2),
                end=round(float(sentence.end), 2),
                tokens=tuple(int(token.id) for token in tokens),
                words=tuple(_words(tokens)),
            )
        return
    parts = getattr(result, "segments", None) or ()
    times = [part for part in parts if isinstance(part, dict) and "start" in part]
    if not times:
        if result.text.strip():
            yield TranscriptSegment(text=result.text, start=0.0, end=round(seconds, 2))
        return
    for part in times:
        yield TranscriptSegment(
            text=part.get("text", ""),
            start=round(float(part["start"]), 2),
            end=round(float(part.get("end", part["start"])), 2),
        )


def _words(tokens: Iterable[Any]) -> Iterator[Word]:
    """Join tokens to words: a word begins with a space."""
    word: Word | None = None
    for token in tokens:
        start, end = round(float(token.start), 2), round(float(token.end), 2)
        if word is None or token.text.startswith(" "):
            if word is not None:
                yield word
            word = Word(token.text.strip(), start, end)
        else:
            word = Word(word.word + token.text, word.start, end)
    if word is not None:
        yield word
