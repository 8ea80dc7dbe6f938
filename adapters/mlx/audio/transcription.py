"""A transcription model in memory."""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from adapters.audio import (
    AudioSink,
    TranscriptEvent,
    TranscriptFinished,
    TranscriptionRequest,
    TranscriptSegment,
    TranscriptStarted,
)
from adapters.errors import UnsupportedParameterError
from adapters.mlx.audio.jobs import AudioJobs
from adapters.mlx.audio.kinds import AudioKind
from adapters.mlx.audio.speech import require_kind
from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.load_progress import Extras, Loading

if TYPE_CHECKING:
    from adapters.mlx.jobs import Pieces

_TOKENS_A_SECOND = 50
"""Frames of audio that Whisper's decoder attends to; others are counted alike."""


class TranscriptionModel:
    purpose: ClassVar[str] = "transcription"

    def __init__(self, engine: Engine, name: str, kind: AudioKind, model: Any) -> None:
        self._engine = engine
        self._name = name
        self.kind = kind
        self._model = model
        self._takes = frozenset(inspect.signature(model.generate).parameters)
        self.jobs = AudioJobs(engine, name, engine.max_queue)

    @classmethod
    async def load(
        cls,
        engine: Engine,
        path: Path,
        dequantize: Literal["auto", "always", "never"],
        loading: Loading,
        extras: Extras,
    ) -> Self:
        kind = require_kind(loading.name, path)

        def start() -> "Pieces[Any]":
            from adapters.mlx.audio.load import load_audio

            return (yield from load_audio(path, kind, dequantize, loading))

        model = await asyncio.wrap_future(engine.run_in_pieces(start))
        return cls(engine, loading.name, kind, model)

    def close(self) -> None:
        """Nothing to stop: it has no thread."""

    async def unload(self) -> None:
        del self._model
        await asyncio.wrap_future(self._engine.free_memory())

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
                input_tokens=round(request.seconds * _TOKENS_A_SECOND),
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

        unused = [
            name
            for name, value in (("prompt", request.prompt), ("temperature", request.temperature))
            if value
        ]
        if request.language and "language" not in self._takes:
            unused.append("language")
        return partial(transcribe_aligned, self._model, self._takes, request), tuple(unused)
