"""Models of audio: which backend speaks or transcribes, and the record of its answer."""

from typing import Any, TypeVar

from adapters.audio import (
    AudioSink,
    SpeechAudio,
    SpeechFinished,
    SpeechStarted,
    TranscriptFinished,
    TranscriptSegment,
    TranscriptStarted,
)
from adapters.events import Finished, Started, TextDelta, Usage
from proxy.record import Attempt

E = TypeVar("E")


class RecordedAudio:
    """A sink that fills the attempt of an answer, and passes its events on."""

    def __init__(self, sink: AudioSink[Any], attempt: Attempt) -> None:
        self._sink = sink
        self._attempt = attempt
        attempt.is_timed = False
        self.drain = sink.drain

    def write(self, event: Any, /) -> bool:
        match event:
            case SpeechStarted() | TranscriptStarted():
                self._attempt.note(Started(cold=event.cold, ignored=event.ignored))
            case SpeechAudio() | TranscriptSegment():
                self._attempt.note(TextDelta(""))
            case SpeechFinished() | TranscriptFinished():
                usage = Usage(
                    prompt_tokens=event.input_tokens, completion_tokens=event.output_tokens
                )
                self._attempt.note(Finished("stop", usage))
            case _:
                pass
        return self._sink.write(event)
