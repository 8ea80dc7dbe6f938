"""A speech model in memory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from adapters.audio import (
    AudioSink,
    SpeechAudio,
    SpeechEvent,
    SpeechFinished,
    SpeechRequest,
    SpeechStarted,
)
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.audio.model import AudioModel
from adapters.mlx.audio.sentences import to_pieces, to_turns
from adapters.mlx.audio.voices import Speaker

_PIECE = 300
"""Characters that are spoken in one call: Kokoro takes 510 phonemes."""
_DIALOGUE_PIECE = 400
"""Characters of Dia's dialogues: about half a minute, which is as long as it speaks."""
_PACED = frozenset({"kokoro", "kitten_tts", "melotts"})
"""Families that speak at a given speed; others take the parameter and ignore it."""
_FASTEST = 2.0
"""Their greatest speed: a phoneme lasts for a frame at least, so that four times is 2.3 times."""
_MIXING = frozenset({"kokoro"})
"""Families that speak with the mean of several voices."""
_WHOLE = frozenset({"dia", "kokoro"})
"""Families that yield the audio of a piece at once."""
_INTERVAL = 1.0
"""Seconds of audio in a chunk of a model that streams."""
_FLOAT_BYTES = 4


class SpeechModel(AudioModel):
    purpose: ClassVar[str] = "speech"

    async def speak(
        self,
        request: SpeechRequest,
        speaker: Speaker,
        sink: AudioSink[SpeechEvent],
        *,
        cold: bool,
    ) -> None:
        """Write the events of an answer; see `Speech.speak`. `SpeechStarted` comes with the first
        sound, so that what fails before has a status.

        Raises:
            UnsupportedParameterError: the model takes no instructions.
            InvalidRequestError: the model mixes no voices, or there is nothing to say, or nothing
                that the model has sounds for, such as a dash.
        """
        if request.instructions and "instruct" not in self._takes:
            raise UnsupportedParameterError(
                f"'{request.model}' takes no instructions.", param="instructions"
            )
        if speaker.is_mixed and self.kind.family not in _MIXING:
            raise InvalidRequestError(f"'{request.model}' mixes no voices.", param="voice")
        pieces = self._pieces(request.text)
        if not pieces:
            raise InvalidRequestError("There is nothing to say.", param="input")
        options = self._options(request, speaker)
        speed = request.speed / self._own_speed(request)
        is_one = len(pieces) == 1 and self.kind.family in _WHOLE
        samples = tokens = rate = 0

        async def receive(chunk: "tuple[bytes, int, int]") -> None:
            nonlocal samples, tokens, rate
            audio, its_rate, count = chunk
            if not rate:
                rate = its_rate
                ignored = ("voice",) if speaker.is_default else ()
                sink.write(SpeechStarted(rate=rate, speed=speed, cold=cold, ignored=ignored))
            samples, tokens = samples + len(audio) // _FLOAT_BYTES, tokens + count
            if sink.write(SpeechAudio(audio, is_all=is_one)):
                await sink.drain()

        async with self.jobs.turn():
            await self.jobs.run(partial(_speak, self._model, pieces, options), receive)
        if not rate:
            raise InvalidRequestError(
                f"'{request.model}' has made no sound of this text.", param="input"
            )
        sink.write(
            SpeechFinished(
                input_tokens=len(request.text), output_tokens=tokens, seconds=samples / rate / speed
            )
        )
        await sink.drain()

    def _pieces(self, text: str) -> list[str]:
        if self.kind.family == "dia":
            return to_turns(text, _DIALOGUE_PIECE)
        return to_pieces(text, _PIECE)

    def _own_speed(self, request: SpeechRequest) -> float:
        """The speed at which the model speaks; the rest is done to its sound."""
        return min(request.speed, _FASTEST) if self.kind.family in _PACED else 1.0

    def _options(self, request: SpeechRequest, speaker: Speaker) -> dict[str, Any]:
        """The arguments of `generate` that this model takes."""
        clip = speaker.clip
        options: dict[str, Any] = {
            "voice": speaker.name,
            "speed": self._own_speed(request) if self.kind.family in _PACED else None,
            "instruct": request.instructions,
            "lang_code": speaker.name[0] if self.kind.family == "kokoro" and speaker.name else None,
            "ref_audio": None if clip is None else str(Path(clip.audio).expanduser()),
            "ref_text": None if clip is None else clip.text,
        }
        if "streaming_interval" in self._takes:
            options |= {"stream": True, "streaming_interval": _INTERVAL}
        return {k: v for k, v in options.items() if v is not None and k in self._takes}


def _speak(
    model: Any,
    pieces: list[str],
    options: dict[str, Any],
    report: "Callable[[tuple[bytes, int, int]], None]",
) -> None:
    """Report (samples, rate, tokens) of each piece as soon as the model yields it."""
    from adapters.mlx.audio.slices import checkpoint

    for piece in pieces:
        for result in model.generate(piece, **options):
            report(
                (to_samples(result.audio), int(result.sample_rate), int(result.token_count or 0))
            )
            checkpoint()


def to_samples(audio: Any) -> bytes:
    """Return one channel of float32 between -1 and 1: a model may write NaN, which AAC refuses."""
    import numpy as np

    samples = np.array(audio, dtype="<f4", copy=True)
    if samples.ndim > 1 and min(samples.shape) > 1:
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    return np.clip(np.nan_to_num(samples), -1, 1).tobytes()
