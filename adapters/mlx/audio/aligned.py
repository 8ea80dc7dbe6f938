"""Transcription by Parakeet and mlx-audio's other models, which return all at once."""

# pyright: basic
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from adapters.audio import TranscriptionRequest, TranscriptSegment, Word
from adapters.errors import UnsupportedParameterError

_CHUNK_SECONDS, _OVERLAP_SECONDS = 120.0, 15.0
"""Longer audio is read in overlapping parts: attention over all of it would not fit."""


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
    samples = mx.array(np.frombuffer(request.samples, dtype="<f4"))
    options: dict[str, Any] = {"language": request.language, "dtype": _float_type(model)}
    if {"chunk_duration", "overlap_duration"} <= takes:
        options |= {"chunk_duration": _CHUNK_SECONDS, "overlap_duration": _OVERLAP_SECONDS}
    result = model.generate(
        samples, **{k: v for k, v in options.items() if v is not None and k in takes}
    )
    segments = list(_segments(result, request.seconds))
    if request.words and not all(segment.words for segment in segments):
        raise UnsupportedParameterError(
            f"'{request.model}' reports no times of words; Whisper and Parakeet do.",
            param="timestamp_granularities",
        )
    for segment in segments:
        report(segment)
    language = getattr(result, "language", None)
    return language if isinstance(language, str) else request.language


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
