"""A backend that speaks and transcribes by a list of events. For tests of the server."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fakes.scripted_backend import HANG, ScriptedBackend

from adapters.audio import (
    AudioSink,
    SpeechRequest,
    TranscriptFinished,
    TranscriptionRequest,
    TranscriptSegment,
    TranscriptStarted,
    Voice,
    Word,
)
from adapters.backend import Model

AUDIO_MODELS = (
    Model(name="speaker", capabilities=frozenset({"speech"})),
    Model(name="listener", capabilities=frozenset({"transcription"})),
    Model(name="m", capabilities=frozenset({"chat"})),
)
TRANSCRIPT = (
    TranscriptStarted(),
    TranscriptSegment(
        text=" Hello there.",
        start=0.0,
        end=1.5,
        tokens=(1, 2),
        avg_logprob=-0.25,
        compression_ratio=0.5,
        no_speech_prob=0.125,
        words=(Word("Hello", 0.0, 0.5), Word("there.", 0.5, 1.5)),
    ),
    TranscriptSegment(text=" Bye --> now.", start=3661.25, end=3662.0, tokens=(3,)),
    TranscriptFinished(language="en", input_tokens=100, output_tokens=3),
)


class ScriptedAudio(ScriptedBackend):
    """`HANG` waits until the request is cancelled; an exception is raised."""

    def __init__(
        self, *, speech: Sequence[Any] = (), transcript: Sequence[Any] = TRANSCRIPT
    ) -> None:
        super().__init__(models=AUDIO_MODELS)
        self.speech = speech
        self.transcript = transcript
        self.asked: list[SpeechRequest | TranscriptionRequest] = []
        self.hangs = asyncio.Event()
        self.stopped = asyncio.Event()

    async def speak(self, request: SpeechRequest, sink: AudioSink[Any]) -> None:
        await self._audio(request, self.speech, sink)

    async def transcribe(self, request: TranscriptionRequest, sink: AudioSink[Any]) -> None:
        await self._audio(request, self.transcript, sink)

    async def list_voices(self, model: str) -> list[Voice]:
        return [Voice(id="anna", language="de"), Voice(id="mary", cloned=True)]

    async def _audio(self, request: Any, script: Sequence[Any], sink: AudioSink[Any]) -> None:
        self.asked.append(request)
        try:
            for step in script:
                await self._play_audio(step, sink)
        except asyncio.CancelledError:
            self.stopped.set()
            raise

    async def _play_audio(self, step: Any, sink: AudioSink[Any]) -> None:
        if isinstance(step, Exception):
            raise step
        if step == HANG:
            self.hangs.set()
            await asyncio.Event().wait()
        if sink.write(step):
            await sink.drain()
