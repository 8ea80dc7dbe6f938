"""Speech and transcription: the protocols beside `Backend`, their requests and their events.

Samples are mono, float32, little-endian, from -1 to 1, as `bytes`: no array library is needed to
pass them on.
"""

from collections.abc import Coroutine
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

T_contra = TypeVar("T_contra", contravariant=True)
Task = Literal["transcribe", "translate"]

TRANSCRIPTION_RATE = 16_000
"""Samples a second of the audio of a `TranscriptionRequest`: what all models here take."""
_TOKENS_A_SECOND = 50


class AudioSink(Protocol[T_contra]):
    """The writing end of an answer, as `adapters.sink.Sink`: `drain` where `write` returns true."""

    def write(self, event: T_contra, /) -> bool: ...

    async def drain(self) -> None: ...


class SpeechRequest(Struct, frozen=True, kw_only=True):
    model: str
    """Name of the model on the backend."""
    text: str
    voice: str | None = None
    """Id of a voice of `Speech.list_voices`, or one of OpenAI's names; `None`: the default."""
    speed: float = 1.0
    instructions: str | None = None
    """The way to speak, in words."""
    keep_alive: float | None = None


class SpeechStarted(Struct, frozen=True, kw_only=True):
    """Written once, first: the model is loaded and speaks."""

    rate: int
    """Samples a second."""
    speed: float = 1.0
    """The factor by which the samples have to be sped up to have the requested speed."""
    cold: bool = False
    """The request waited for the model to be loaded."""
    ignored: tuple[str, ...] = ()
    """Fields of the request without effect."""


class SpeechAudio(Struct, frozen=True):
    """A piece of the audio, as soon as the model has made it."""

    samples: bytes
    is_all: bool = False
    """True if it is known that these are all samples."""


class SpeechFinished(Struct, frozen=True, kw_only=True):
    """Written once, last."""

    input_tokens: int
    """Characters of the text: models of mlx-audio do not report its tokens."""
    output_tokens: int
    """Tokens that the model reports for its audio."""
    seconds: float
    """Length of the audio."""


SpeechEvent = SpeechStarted | SpeechAudio | SpeechFinished


class Voice(Struct, frozen=True, kw_only=True):
    id: str
    language: str | None = None
    """ISO 639-1, with a region if it has one, as `en-GB`."""
    cloned: bool = False
    """It is a clip of the configuration that the model imitates."""


class TranscriptionRequest(Struct, frozen=True, kw_only=True):
    model: str
    samples: bytes
    """At `TRANSCRIPTION_RATE`."""
    task: Task = "transcribe"
    """`translate`: to English."""
    language: str | None = None
    """ISO 639-1 code of the spoken language; `None`: detected."""
    languages: tuple[str, ...] = ()
    """Codes of those that it is detected among; none: all of the model."""
    keywords: tuple[str, ...] = ()
    """Words that may be spoken, in their spelling."""
    prompt: str | None = None
    """Text before the audio: spelling of names, style."""
    temperature: float | None = None
    """`None` and 0: greedy, then rising where the text repeats itself or is improbable."""
    words: bool = False
    """Report the times of words."""
    logprobs: bool = False
    """Report the log probability of each token."""
    keep_alive: float | None = None

    @property
    def seconds(self) -> float:
        return len(self.samples) / 4 / TRANSCRIPTION_RATE

    @property
    def tokens(self) -> int:
        """Tokens of the audio: frames that Whisper's decoder attends to; others count alike."""
        return round(self.seconds * _TOKENS_A_SECOND)


class TranscriptStarted(Struct, frozen=True, kw_only=True):
    """Written once, first: the model is loaded and listens."""

    cold: bool = False
    ignored: tuple[str, ...] = ()
    """Fields of the request without effect."""


class Word(Struct, frozen=True):
    word: str
    start: float
    end: float


class TranscriptLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class TranscriptSegment(Struct, frozen=True, kw_only=True):
    """A piece of the text with its times, in seconds from the beginning of the audio.

    The numbers besides are Whisper's, in its meaning; 0 for models that do not report them.
    """

    text: str
    start: float
    end: float
    seek: int = 0
    """Beginning of the window of 30 s in which it was found, in hundredths of a second."""
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    words: tuple[Word, ...] = ()
    logprobs: tuple[TranscriptLogprob, ...] = ()


class TranscriptFinished(Struct, frozen=True, kw_only=True):
    """Written once, last."""

    language: str | None
    """ISO 639-1 code of the spoken language, as detected or requested."""
    input_tokens: int = 0
    """Frames of audio that the model's decoder attends to."""
    output_tokens: int = 0


TranscriptEvent = TranscriptStarted | TranscriptSegment | TranscriptFinished


@runtime_checkable
class Speech(Protocol):
    """A backend that speaks."""

    def speak(
        self, request: SpeechRequest, sink: AudioSink[SpeechEvent]
    ) -> Coroutine[Any, Any, None]:
        """Write `SpeechStarted`, audio as soon as the model yields it, and `SpeechFinished`.

        Cancelling the task stops the model before its next layer.

        Raises:
            UnsupportedParameterError: the model takes no instructions.
            InvalidRequestError: it is no speech model, has no such voice, or nothing to say.
            BackendError: as `Backend.generate`.
        """
        ...

    async def list_voices(self, model: str) -> list[Voice]:
        """List the voices of `model`, the default first; empty if it has one voice without a name.

        The model need not be loaded.
        """
        ...


@runtime_checkable
class Transcriber(Protocol):
    """A backend that writes down speech."""

    def transcribe(
        self, request: TranscriptionRequest, sink: AudioSink[TranscriptEvent]
    ) -> Coroutine[Any, Any, None]:
        """Write `TranscriptStarted`, segments in the order of time, and `TranscriptFinished`.

        Cancelling the task stops the model before its next layer.

        Raises:
            UnsupportedParameterError: the model does not translate, or reports no times of words
                or log probabilities.
            InvalidRequestError: it is no transcription model, or does not know the language.
            BackendError: as `Backend.generate`.
        """
        ...
