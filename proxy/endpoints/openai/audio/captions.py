"""Transcripts as subtitles: SubRip and WebVTT.

Sources: https://www.matroska.org/technical/subtitles.html#srt-subtitles,
https://www.w3.org/TR/webvtt1/
"""

from collections.abc import Sequence

from adapters.audio import TranscriptSegment


def to_srt(segments: Sequence[TranscriptSegment]) -> str:
    return "".join(
        f"{at}\n{_time(s.start, ',')} --> {_time(s.end, ',')}\n{_line(s)}\n\n"
        for at, s in enumerate(segments, 1)
    )


def to_vtt(segments: Sequence[TranscriptSegment]) -> str:
    cues = (f"{_time(s.start, '.')} --> {_time(s.end, '.')}\n{_line(s)}\n\n" for s in segments)
    return "WEBVTT\n\n" + "".join(cues)


def _line(segment: TranscriptSegment) -> str:
    """The text on one line, without an arrow, which is the mark of times."""
    return " ".join(segment.text.split()).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"
