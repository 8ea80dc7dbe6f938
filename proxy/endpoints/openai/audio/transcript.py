"""Transcripts in OpenAI's shapes."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from adapters.audio import (
    TranscriptFinished,
    TranscriptLogprob,
    TranscriptSegment,
    TranscriptStarted,
    Word,
)
from proxy.errors import Failure
from proxy.http.event_stream import Put, sse

_encode = msgspec.json.Encoder().encode
TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


class DurationUsage(Struct, tag_field="type", tag="duration"):
    seconds: float


class TokenUsage(Struct, tag_field="type", tag="tokens"):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class Transcription(Struct, kw_only=True, omit_defaults=True):
    text: str
    usage: DurationUsage | None = None
    logprobs: list[TranscriptLogprob] | None = None


class Segment(Struct, kw_only=True):
    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseTranscription(Struct, kw_only=True, omit_defaults=True):
    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: list[Segment] | None = None
    words: list[Word] | None = None
    usage: DurationUsage | None = None


class TranscriptTextDelta(
    Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="transcript.text.delta"
):
    delta: str
    logprobs: list[TranscriptLogprob] | None = None


class TranscriptTextDone(
    Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="transcript.text.done"
):
    text: str
    logprobs: list[TranscriptLogprob] | None = None
    usage: TokenUsage


class Transcript:
    """A sink that collects an answer."""

    def __init__(self) -> None:
        self.segments: list[TranscriptSegment] = []
        self.language: str | None = None

    def write(self, event: Any, /) -> bool:
        match event:
            case TranscriptSegment():
                self.segments.append(event)
            case TranscriptFinished():
                self.language = event.language
            case _:
                pass
        return False

    async def drain(self) -> None:
        """Nothing waits: a transcript is short."""

    @property
    def text(self) -> str:
        return to_text(self.segments)


def to_text(segments: Sequence[TranscriptSegment]) -> str:
    """Join the segments. Whisper's begin with a space, others' may not."""
    return "".join(map(to_delta, segments)).strip()


def to_delta(segment: TranscriptSegment) -> str:
    has_space = segment.text[:1].isspace() or not segment.text[:1].isascii()
    return segment.text if has_space else f" {segment.text}"


def to_logprobs(segments: Sequence[TranscriptSegment]) -> list[TranscriptLogprob]:
    return [logprob for segment in segments for logprob in segment.logprobs]


def to_segments(segments: Sequence[TranscriptSegment]) -> list[Segment]:
    return [
        Segment(
            id=at,
            seek=s.seek,
            start=s.start,
            end=s.end,
            text=s.text,
            tokens=list(s.tokens),
            temperature=s.temperature,
            avg_logprob=s.avg_logprob,
            compression_ratio=s.compression_ratio,
            no_speech_prob=s.no_speech_prob,
        )
        for at, s in enumerate(segments)
    ]


class TranscriptRenderer:
    """Encodes a streamed transcript; the deltas are its text."""

    def __init__(self, put: Put, *, with_logprobs: bool) -> None:
        self._put = put
        self._with_logprobs = with_logprobs
        self._segments: list[TranscriptSegment] = []

    def write(self, event: Any, /) -> bool:
        match event:
            case TranscriptStarted():
                return False
            case TranscriptSegment():
                self._segments.append(event)
                return self._put(sse(_encode(self._delta(event))))
            case TranscriptFinished(input_tokens=ins, output_tokens=outs):
                return self._put(sse(_encode(self._done(TokenUsage(ins, outs, ins + outs)))))
            case _:
                return False

    def error(self, failure: Failure, /) -> bytes:
        return sse(_encode(failure.body))

    def _delta(self, segment: TranscriptSegment) -> TranscriptTextDelta:
        is_first = len(self._segments) == 1
        text = to_delta(segment)
        return TranscriptTextDelta(
            delta=text.lstrip() if is_first else text,
            logprobs=list(segment.logprobs) if self._with_logprobs else None,
        )

    def _done(self, usage: TokenUsage) -> TranscriptTextDone:
        return TranscriptTextDone(
            text=to_text(self._segments),
            logprobs=to_logprobs(self._segments) if self._with_logprobs else None,
            usage=usage,
        )
