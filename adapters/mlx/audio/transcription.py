"""A transcription model in memory."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from adapters.audio import (
    AudioSink,
    TranscriptEvent,
    TranscriptFinished,
    TranscriptionRequest,
    TranscriptSegment,
    TranscriptStarted,
)
from adapters.errors import UnsupportedParameterError
from adapters.mlx.audio.model import AudioModel


class TranscriptionModel(AudioModel):
    purpose: ClassVar[str] = "transcription"

    async def transcribe(
        self, request: TranscriptionRequest, sink: AudioSink[TranscriptEvent], *, cold: bool
    ) -> None:
        """Write the events of an answer; see `Transcriber.transcribe`."""
        work, ignored = self._work(request)
        tokens = 0

        async def receive(segment: TranscriptSegment) -> None:
            nonlocal tokens
            tokens += len(segment.tokens)
            if sink.write(segment):
                await sink.drain()

        async with self.jobs.turn():
            sink.write(TranscriptStarted(cold=cold, ignored=ignored))
            language = await self.jobs.run(work, receive)
        sink.write(
            TranscriptFinished(
                language=language,
                input_tokens=request.tokens,
                output_tokens=tokens,
            )
        )
        await sink.drain()

    def _work(
        self, request: TranscriptionRequest
    ) -> "tuple[Callable[[Callable[[Any], None]], str | None], tuple[str, ...]]":
        """The call that transcribes, and the fields of `request` that it does without.

        Raises:
            InvalidRequestError, UnsupportedParameterError: see `Transcriber.transcribe`.
        """
        if self.kind.family == "whisper":
            from adapters.mlx.audio.whisper import check_language, transcribe

            check_language(self._model, request)
            return partial(transcribe, self._model, request), ()
        if request.task == "translate":
            raise UnsupportedParameterError(
                f"'{request.model}' does not translate; Whisper does.", param="model"
            )
        if request.logprobs:
            raise UnsupportedParameterError(
                f"'{request.model}' reports no log probabilities; Whisper does.", param="include"
            )
        from adapters.mlx.audio.aligned import transcribe as transcribe_aligned

        fields = ("prompt", "temperature", "keywords", "languages")
        unused = [name for name in fields if getattr(request, name)]
        if request.language and "language" not in self._takes:
            unused.append("language")
        return partial(transcribe_aligned, self._model, self._takes, request), tuple(unused)
