"""mlx-audio's own classes with small random weights, through the engine, beside a text stream."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_audio import (
    DIA_RATE,
    ORPHEUS_FRAME,
    sine,
    tiny_dia,
    tiny_orpheus,
    tiny_parakeet,
    tiny_whisper,
)
from fakes.tiny_model import config_for, write_tiny_model

from adapters.audio import (
    SpeechAudio,
    SpeechFinished,
    SpeechRequest,
    SpeechStarted,
    TranscriptFinished,
    TranscriptionRequest,
    TranscriptSegment,
    TranscriptStarted,
)
from adapters.errors import (
    BackendBusyError,
    GenerationError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from adapters.events import TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.mlx.process.backend import MLXProcessBackend
from adapters.request import GenerationRequest

pytestmark = pytest.mark.long

AudioBackend = MLXBackend | MLXProcessBackend
DIALOGUE = "[S1] Hello there. [S2] Hi! (laughs) [S1] Bye."


class Listed:
    """A sink that lists events with their times, and may end the answer at one."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.times: list[float] = []
        self.first = asyncio.Event()

    def write(self, event: Any, /) -> bool:
        self.events.append(event)
        self.times.append(time.perf_counter())
        self.first.set()
        return False

    async def drain(self) -> None:
        """Nothing waits."""

    @property
    def longest_gap(self) -> float:
        return max(b - a for a, b in zip(self.times, self.times[1:], strict=False))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(path))
        yield path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, hub: Path) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    write_tiny_model(folder / "writer")
    tiny_whisper(folder / "listener")
    tiny_dia(folder / "speaker", hub)
    tiny_parakeet(folder / "aligner")
    tiny_orpheus(folder / "orpheus", hub)
    return folder


@pytest.fixture(params=["thread", pytest.param("process", marks=pytest.mark.process)])
async def backend(folder: Path, request: pytest.FixtureRequest) -> AsyncGenerator[AudioBackend]:
    """The engine on a thread of this process, and in a process of its own."""
    config = config_for(folder, engine=request.param)
    kind = MLXBackend if request.param == "thread" else MLXProcessBackend
    async with aclosing(kind(config)) as backend:
        yield backend


async def speak(backend: AudioBackend, **fields: Any) -> Listed:
    sink = Listed()
    await backend.speak(SpeechRequest(model="speaker", text=DIALOGUE, **fields), sink)
    return sink


async def transcribe(backend: AudioBackend, seconds: float = 2.0, **fields: Any) -> Listed:
    sink = Listed()
    request = TranscriptionRequest(
        model="listener", samples=sine(seconds), temperature=0.5, **fields
    )
    await backend.transcribe(request, sink)
    return sink


async def write_text(backend: AudioBackend, sink: Listed) -> None:
    request = GenerationRequest(model="writer", prompt="abc", max_tokens=400)
    await backend.generate(request, sink)


async def test_dialogue_is_spoken_in_pieces(backend: AudioBackend):
    started, *sounds, finished = (await speak(backend)).events
    assert started == SpeechStarted(rate=DIA_RATE, cold=True)
    assert len(sounds) == 2
    assert all(isinstance(sound, SpeechAudio) for sound in sounds)
    samples = sum(len(sound.samples) for sound in sounds) // 4
    assert isinstance(finished, SpeechFinished)
    assert (finished.input_tokens, finished.seconds) == (len(DIALOGUE), samples / DIA_RATE)


async def test_orpheus_speaks_whatever_tokens_it_writes(backend: AudioBackend):
    """Codes that its codec does not have were read outside of the codebook, which ended the
    process."""
    sink = Listed()
    request = SpeechRequest(model="orpheus", text="Hello.", voice="leo")
    await backend.speak(request, sink)
    started, *sounds, _ = sink.events
    assert started == SpeechStarted(rate=24_000, cold=True)
    samples = sum(len(sound.samples) for sound in sounds if isinstance(sound, SpeechAudio)) // 4
    assert ORPHEUS_FRAME <= samples < 2 * ORPHEUS_FRAME


async def test_part_of_a_model_that_is_not_on_this_machine_is_named(folder: Path, tmp_path: Path):
    """transformers would look for it on the network."""
    ignored = shutil.ignore_patterns("tokenizer*")
    shutil.copytree(folder / "orpheus", tmp_path / "outetts", ignore=ignored)
    async with aclosing(MLXBackend(config_for(tmp_path))) as backend:
        with pytest.raises(GenerationError, match=r"needs the repository 'OuteAI/.*`hf download"):
            await backend.speak(SpeechRequest(model="outetts", text="Hi."), Listed())


async def test_voices_are_mixed_by_kokoro_alone(backend: AudioBackend):
    with pytest.raises(InvalidRequestError, match="'orpheus' mixes no voices") as caught:
        await backend.speak(SpeechRequest(model="orpheus", text="Hi.", voice="leo+dan"), Listed())
    assert caught.value.param == "voice"


async def test_audio_is_transcribed_with_times_inside_it(backend: AudioBackend):
    started, *segments, finished = (await transcribe(backend, words=True, logprobs=True)).events
    assert started == TranscriptStarted(cold=True)
    assert isinstance(finished, TranscriptFinished)
    assert (finished.language, finished.input_tokens) == ("en", 100)
    for segment in segments:
        assert isinstance(segment, TranscriptSegment)
        assert 0 <= segment.start <= segment.end <= 2.0
        assert all(0 <= word.start <= word.end <= 2.0 for word in segment.words)
        assert len(segment.logprobs) == sum(token < 256 for token in segment.tokens)
        assert all(logprob.logprob <= 0 for logprob in segment.logprobs)
        # Its tokens are single bytes, most of them no character by themselves.
        assert all(len(logprob.bytes) == 1 for logprob in segment.logprobs)
        own = b"".join(bytes(logprob.bytes) for logprob in segment.logprobs)
        assert own.decode("utf-8", "replace") == segment.text


async def test_parakeet_reports_words_with_times_inside_the_audio(backend: AudioBackend):
    request = TranscriptionRequest(
        model="aligner", samples=sine(3.0), prompt="x", keywords=("y",), words=True
    )
    sink = Listed()
    await backend.transcribe(request, sink)
    started, *segments, finished = sink.events
    assert started == TranscriptStarted(cold=True, ignored=("prompt", "keywords"))
    assert isinstance(finished, TranscriptFinished)
    assert segments
    for segment in segments:
        assert isinstance(segment, TranscriptSegment)
        assert [word.word for word in segment.words] == segment.text.split()
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert segment.start == times[0] <= times[-1] == segment.end <= 3.0


async def test_text_stream_goes_on_beside_speech_and_transcription(backend: AudioBackend):
    for name in ("writer", "speaker", "listener"):
        await backend.load(name)
    alone, beside = Listed(), Listed()
    await write_text(backend, alone)
    text = asyncio.create_task(write_text(backend, beside))
    await beside.first.wait()
    speech, transcript = await asyncio.gather(speak(backend), transcribe(backend))
    written_beside = [t for t in beside.times if t < max(speech.times[-1], transcript.times[-1])]
    await text
    print(f"longest gap: {alone.longest_gap:.3f} s alone, {beside.longest_gap:.3f} s beside audio")
    assert written_beside, "no token came while audio was made"
    assert texts(beside) == texts(alone)


def texts(sink: Listed) -> str:
    return "".join(event.text for event in sink.events if isinstance(event, TextDelta))


async def test_engine_is_free_when_a_listener_leaves_in_mid_speech(backend: AudioBackend):
    await backend.load("speaker")
    speech = asyncio.create_task(
        backend.speak(SpeechRequest(model="speaker", text=f"[S1] {'long ' * 800}"), Listed())
    )
    await asyncio.sleep(0)
    await transcribe(backend)  # It has its turns beside the speech.
    speech.cancel()
    with pytest.raises(asyncio.CancelledError):
        await speech
    await backend.unload("speaker")
    assert [model.name for model in await backend.list_running()] == ["listener"]


async def test_speech_of_two_clients_takes_turns(backend: AudioBackend):
    first, second = await asyncio.gather(speak(backend), speak(backend))
    assert len(first.events) == len(second.events) == 4


async def test_queue_of_a_model_has_a_limit(folder: Path):
    config = config_for(folder, max_queue=0)
    async with aclosing(MLXBackend(config)) as backend:
        await backend.load("speaker")
        answers = await asyncio.gather(speak(backend), speak(backend), return_exceptions=True)
    # Either of two requests at once may be the first to have read the files of the model.
    assert {type(answer) for answer in answers} == {Listed, BackendBusyError}


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"voice": "absent"}, InvalidRequestError, "voice"),
        ({"instructions": "softly"}, UnsupportedParameterError, "instructions"),
    ],
)
async def test_what_a_speech_model_cannot_do_is_refused(
    backend: AudioBackend, fields: dict[str, Any], error: type[Exception], param: str
):
    with pytest.raises(error) as caught:
        await speak(backend, **fields)
    assert getattr(caught.value, "param", None) == param


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"task": "translate"}, UnsupportedParameterError, "model"),
        ({"language": "de"}, InvalidRequestError, "language"),
        ({"languages": ("de", "fr")}, InvalidRequestError, "languages"),
    ],
)
async def test_what_an_english_whisper_cannot_do_is_refused(
    backend: AudioBackend, fields: dict[str, Any], error: type[Exception], param: str
):
    with pytest.raises(error) as caught:
        await transcribe(backend, **fields)
    assert getattr(caught.value, "param", None) == param


async def test_model_of_another_kind_is_refused(backend: AudioBackend):
    with pytest.raises(InvalidRequestError, match="'writer' is no model for speech"):
        await backend.speak(SpeechRequest(model="writer", text="Hello"), Listed())
    with pytest.raises(InvalidRequestError, match="is a model for speech, not for text"):
        await backend.generate(GenerationRequest(model="speaker", prompt="Hello"), Listed())


async def test_models_are_listed_with_their_capability(backend: AudioBackend):
    listed = {model.name: set(model.capabilities) for model in await backend.list_models()}
    assert listed["speaker"] == {"speech"}
    assert listed["listener"] == {"transcription"}
